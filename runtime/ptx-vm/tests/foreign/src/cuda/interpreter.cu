// An interpreter of nine operations: the switch is a jump table; the program is a struct by value.
#include "device.cuh"

struct Program {
  int steps;
  short offset;
  signed char scale;
  float bias;
  int codes[12];
};

__constant__ int constants[8] = {3, -1, 4, -1, 5, -9, 2, 6};

extern "C" __global__ void interpreter(const Program program, const int *x, float *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  int v = x[i];
  for (int step = 0; step < program.steps; step++) {
    switch ((program.codes[step] + v) & 15) {
    case 0:
      v += program.offset;
      break;
    case 1:
      v *= program.scale;
      break;
    case 2:
      v ^= 0x55;
      break;
    case 3:
      v = v * v - 7;
      break;
    case 4:
      v >>= 2;
      break;
    case 5:
      v = -v;
      break;
    case 6:
      v += constants[v & 7];
      break;
    case 7:
      v = v % 1000;
      break;
    case 8:
      v |= step;
      break;
    default:
      v += 11;
      break;
    }
  }
  y[i] = v + program.bias;
}
