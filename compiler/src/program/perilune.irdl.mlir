// The `perilune` dialect: tensor-level ops and scalar functions that upstream dialects lack.
//
// Verify a program with stock MLIR: mlir-opt --irdl-file=perilune.irdl.mlir program.mlir
irdl.dialect @perilune {
  // softmax(scale * q k^T + mask) v, with log-sum-exp per row and the maximum logit per head.
  irdl.operation @attention {
    %q = irdl.any
    %k = irdl.any
    %v = irdl.any
    %o = irdl.any
    %lse = irdl.any
    %max = irdl.any
    %scale = irdl.any
    %causal = irdl.any
    irdl.operands(q: %q, k: %k, v: %v)
    irdl.results(o: %o, lse: %lse, max_logit: %max)
    irdl.attributes {"scale" = %scale, "causal" = %causal}
  }
  // Gradients of attention from q, k, v, o, lse and the gradient of o.
  irdl.operation @attention_grad {
    %q = irdl.any
    %k = irdl.any
    %v = irdl.any
    %o = irdl.any
    %lse = irdl.any
    %d_o = irdl.any
    %d_q = irdl.any
    %d_k = irdl.any
    %d_v = irdl.any
    %scale = irdl.any
    %causal = irdl.any
    irdl.operands(q: %q, k: %k, v: %v, o: %o, lse: %lse, d_o: %d_o)
    irdl.results(d_q: %d_q, d_k: %d_k, d_v: %d_v)
    irdl.attributes {"scale" = %scale, "causal" = %causal}
  }
  // Rows grouped by offsets, each group times its own matrix.
  irdl.operation @ragged_rows {
    %rows = irdl.any
    %weights = irdl.any
    %offsets = irdl.any
    %out = irdl.any
    %transposed = irdl.any
    irdl.operands(rows: %rows, weights: %weights, offsets: %offsets)
    irdl.results(out: %out)
    irdl.attributes {"transposed" = %transposed}
  }
  // Per group, the sum over its rows of outer products.
  irdl.operation @ragged_outer {
    %lhs = irdl.any
    %rhs = irdl.any
    %offsets = irdl.any
    %out = irdl.any
    irdl.operands(lhs: %lhs, rhs: %rhs, offsets: %offsets)
    irdl.results(out: %out)
  }
  // The k largest of each row, descending; ties take the lower index.
  irdl.operation @top_k {
    %x = irdl.any
    %values = irdl.any
    %indices = irdl.any
    %k = irdl.any
    irdl.operands(x: %x)
    irdl.results(values: %values, indices: %indices)
    irdl.attributes {"k" = %k}
  }
  // Stable ascending order of keys in 0..bound.
  irdl.operation @arg_sort {
    %keys = irdl.any
    %order = irdl.any
    %bound = irdl.any
    irdl.operands(keys: %keys)
    irdl.results(order: %order)
    irdl.attributes {"bound" = %bound}
  }
  // How often each key in 0..bound occurs.
  irdl.operation @histogram {
    %keys = irdl.any
    %counts = irdl.any
    %bound = irdl.any
    irdl.operands(keys: %keys)
    irdl.results(counts: %counts)
    irdl.attributes {"bound" = %bound}
  }
  // Running sum along the last dimension; exclusive starts at 0 and appends the total.
  irdl.operation @cum_sum {
    %x = irdl.any
    %out = irdl.any
    %exclusive = irdl.any
    irdl.operands(x: %x)
    irdl.results(out: %out)
    irdl.attributes {"exclusive" = %exclusive}
  }
  // Zero, then row i of the updates added at indices[i], in order; negative indices are skipped.
  irdl.operation @scatter_add {
    %updates = irdl.any
    %indices = irdl.any
    %out = irdl.any
    %extent = irdl.any
    irdl.operands(updates: %updates, indices: %indices)
    irdl.results(out: %out)
    irdl.attributes {"extent" = %extent}
  }
  // Every rank's tensors combined over a group of ranks, as a pairwise tree in their order.
  irdl.operation @all_reduce {
    %in = irdl.any
    %out = irdl.any
    %axes = irdl.any
    %combine = irdl.any
    %ranks = irdl.any
    irdl.operands(parts: variadic %in)
    irdl.results(wholes: variadic %out)
    irdl.attributes {"axes" = %axes, "combine" = %combine, "ranks" = %ranks}
  }
  // Every rank's tensors combined over a group of ranks, each on a rank of its own.
  irdl.operation @reduce {
    %in = irdl.any
    %out = irdl.any
    %axes = irdl.any
    %combine = irdl.any
    %ranks = irdl.any
    %roots = irdl.any
    irdl.operands(parts: variadic %in)
    irdl.results(wholes: variadic %out)
    irdl.attributes {"axes" = %axes, "combine" = %combine, "ranks" = %ranks, "roots" = %roots}
  }
  // Tensors of a group of ranks, each as one rank of its own has it.
  irdl.operation @broadcast {
    %in = irdl.any
    %out = irdl.any
    %axes = irdl.any
    %ranks = irdl.any
    %roots = irdl.any
    irdl.operands(owned: variadic %in)
    irdl.results(shared: variadic %out)
    irdl.attributes {"axes" = %axes, "ranks" = %ranks, "roots" = %roots}
  }
  // The ranks' parts of a dimension put together, in their order.
  irdl.operation @all_gather {
    %part = irdl.any
    %whole = irdl.any
    %axes = irdl.any
    %dim = irdl.any
    %ranks = irdl.any
    irdl.operands(part: %part)
    irdl.results(whole: %whole)
    irdl.attributes {"axes" = %axes, "dim" = %dim, "ranks" = %ranks}
  }
  // Equal pieces, the r-th for rank r; what comes from rank r becomes the r-th.
  irdl.operation @exchange_counts {
    %sent = irdl.any
    %received = irdl.any
    %axes = irdl.any
    %ranks = irdl.any
    irdl.operands(sent: %sent)
    irdl.results(received: %received)
    irdl.attributes {"axes" = %axes, "ranks" = %ranks}
  }
  // Rows grouped by expert to the ranks of their experts: ordered by expert, then rank, then place.
  irdl.operation @dispatch {
    %local = irdl.any
    %sent = irdl.any
    %received = irdl.any
    %routed = irdl.any
    %axes = irdl.any
    %ranks = irdl.any
    %rows = irdl.any
    irdl.operands(local: %local, sent: %sent, received: %received)
    irdl.results(routed: %routed)
    irdl.attributes {"axes" = %axes, "ranks" = %ranks, "rows" = %rows}
  }
  // Dispatch of rows that tokens share: row i is that of token order[i] / per_token.
  irdl.operation @dispatch_tokens {
    %tokens = irdl.any
    %order = irdl.any
    %sent = irdl.any
    %received = irdl.any
    %routed = irdl.any
    %axes = irdl.any
    %per_token = irdl.any
    %ranks = irdl.any
    %rows = irdl.any
    irdl.operands(tokens: %tokens, order: %order, sent: %sent, received: %received)
    irdl.results(routed: %routed)
    irdl.attributes {"axes" = %axes, "per_token" = %per_token, "ranks" = %ranks, "rows" = %rows}
  }
  // The way back of dispatch.
  irdl.operation @combine {
    %routed = irdl.any
    %sent = irdl.any
    %received = irdl.any
    %local = irdl.any
    %axes = irdl.any
    %ranks = irdl.any
    %rows = irdl.any
    irdl.operands(routed: %routed, sent: %sent, received: %received)
    irdl.results(local: %local)
    irdl.attributes {"axes" = %axes, "ranks" = %ranks, "rows" = %rows}
  }
  // Element of a tensor at i32 indices, each clamped into its extent.
  irdl.operation @load {
    %tensor = irdl.any
    %index = irdl.is i32
    %element = irdl.any
    irdl.operands(tensor: %tensor, indices: variadic %index)
    irdl.results(element: %element)
  }
  // -1, 0 or 1; the sign of zero is zero.
  irdl.operation @sign {
    %t = irdl.any
    irdl.operands(x: %t)
    irdl.results(y: %t)
  }
  // 1 / (1 + exp(-x)).
  irdl.operation @sigmoid {
    %t = irdl.any
    irdl.operands(x: %t)
    irdl.results(y: %t)
  }
  // -x of an integer, wrapping.
  irdl.operation @neg {
    %t = irdl.any
    irdl.operands(x: %t)
    irdl.results(y: %t)
  }
  // Truth negated.
  irdl.operation @not {
    %t = irdl.is i1
    irdl.operands(x: %t)
    irdl.results(y: %t)
  }
  // Conversions that `arith` has no single op for.
  irdl.operation @convert {
    %from = irdl.any
    %to = irdl.any
    irdl.operands(x: %from)
    irdl.results(y: %to)
  }
}
