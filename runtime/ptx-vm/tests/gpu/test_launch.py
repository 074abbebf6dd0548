"""Numbers, RON and comparison of `launch.py`, where the answers are known."""

import math
import struct
import unittest

import launch


class Numbers(unittest.TestCase):
    def test_every_pattern_of_the_small_formats_is_the_encoding_of_its_value(self):
        for dtype in ("e4m3", "e5m2", "f16", "bf16"):
            size = launch.BYTES[dtype]
            for bits in range(1 << 8 * size):
                value = launch.decode(dtype, bits.to_bytes(size, "little"))
                if not math.isnan(value):
                    self.assertEqual(launch.encode(dtype, value), bits, (dtype, bits))

    def test_wide_formats_are_those_of_python(self):
        for value in (0.0, -0.0, 1.0, 0.1, -3.4028235e38, 1e-45, 5e-324, 1.7976931348623157e308, math.inf):
            wide = struct.pack("<d", value)
            self.assertEqual(launch.encode("f64", value).to_bytes(8, "little"), wide)
            self.assertEqual(launch.decode("f64", wide), value)
        for value in (0.1, 1 / 3, 16777217.0, 1e-40, -2.5e-45):
            narrow = struct.pack("<f", value)
            self.assertEqual(launch.encode("f32", value).to_bytes(4, "little"), narrow)
            self.assertEqual(launch.decode("f32", narrow), struct.unpack("<f", narrow)[0])

    def test_halfway_cases_go_to_even_and_what_is_too_large_to_infinity_or_nan(self):
        self.assertEqual(launch.encode("bf16", 1 + 2**-8), 0x3F80)
        self.assertEqual(launch.encode("bf16", 1 + 3 * 2**-8), 0x3F82)
        self.assertEqual(launch.encode("f16", 65520.0), 0x7C00)
        self.assertEqual(launch.encode("e4m3", 448.0), 0x7E)
        self.assertEqual(launch.encode("e4m3", -1000.0), 0xFF)
        self.assertEqual(launch.encode("tf32", 1 + 2**-11), 0x3F800000)
        self.assertEqual(launch.encode("i8", -1.5), 0xFE)


class Text(unittest.TestCase):
    def test_ron_is_read_with_its_comments_names_and_numbers(self):
        node = launch.Ron('A(b: [1, -2.5e1, 0x10], /* c */ d: E(f: "g\\"h"), i: None, j: (1, 2,),) // end').value()
        self.assertEqual((node.name, node.fields["b"]), ("A", [1, -25.0, 16]))
        self.assertEqual(node.fields["d"].fields, {"f": 'g"h'})
        self.assertEqual((node.fields["i"].name, node.fields["j"].values), ("None", [1, 2]))

    def test_what_is_no_ron_is_refused(self):
        for text in ("A(", "A(b: ])", "A(b 1)", "§"):
            with self.assertRaises(ValueError):
                launch.Ron(text).value()


class Comparison(unittest.TestCase):
    def test_a_difference_beyond_the_tolerance_is_found_and_one_within_is_not(self):
        want = struct.pack("<3f", 1.0, 100.0, math.inf)
        near = struct.pack("<3f", 1.0 + 1e-4, 100.0 + 1e-2, math.inf)
        self.assertEqual([at for at, _, _ in launch.differences(near, want, "f32")], [0, 1])
        self.assertEqual(launch.differences(near, want, "f32", (0.0, 2e-4)), [])
        self.assertEqual([at for at, _, _ in launch.differences(near, want, "f32", (2e-4, 0.0))], [1])

    def test_an_infinity_stands_for_nothing_else_and_nans_for_each_other(self):
        finite, infinite = struct.pack("<f", 1.0), struct.pack("<f", math.inf)
        self.assertEqual(len(launch.differences(finite, infinite, "f32", (0.0, 1.0))), 1)
        quiet, other = bytes.fromhex("0000c07f"), bytes.fromhex("0100c0ff")
        self.assertEqual(launch.differences(quiet, other, "f32", (0.0, 0.0)), [])
        self.assertEqual(len(launch.differences(quiet, other, "f32")), 1)


if __name__ == "__main__":
    unittest.main()
