/**
 * The Huffman code of HPACK (RFC 7541 appendix B), decoding only: we send strings as they are, which costs a
 * few bytes on a local network and no time.
 *
 * The code is canonical: within one length the codes go up with the symbol, so that the symbols sorted by
 * (length, value) and, for each length, the first code and the number of codes say everything.
 */

const LENGTH_MIN = 5;
const LENGTH_MAX = 30;
/** Padding is the start of EOS, all ones, and shorter than a byte. */
const PADDING_MAX_BITS = 7;
const EOS = 256;

// oxfmt-ignore
const SYMBOLS: readonly number[] = [
  48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57, 61, 65,
  95, 98, 100, 102, 103, 104, 108, 109, 110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75,
  76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107, 113, 118, 119, 120, 121, 122, 38, 42,
  44, 59, 88, 90, 33, 34, 40, 41, 63, 39, 43, 124, 35, 62, 0, 36, 64, 91, 93, 126, 94, 125, 60, 96, 123,
  92, 195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161, 167, 172, 176, 177, 179, 209, 216, 217,
  227, 229, 230, 129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186,
  187, 189, 190, 196, 198, 228, 232, 233, 1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152,
  155, 157, 158, 165, 166, 168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239, 9, 142, 144, 145, 148,
  159, 171, 206, 215, 225, 236, 237, 199, 207, 234, 235, 192, 193, 200, 201, 202, 205, 210, 213, 218, 219,
  238, 240, 242, 243, 255, 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251,
  252, 253, 254, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29,
  30, 31, 127, 220, 249, 10, 13, 22, 256,
];
/** By length in bits: the first code, how many there are, and where their symbols start. */
// oxfmt-ignore
const FIRST_CODE: readonly number[] = [
  0, 0, 0, 0, 0, 0x0, 0x14, 0x5c, 0xf8, 0, 0x3f8, 0x7fa, 0xffa, 0x1ff8, 0x3ffc, 0x7ffc, 0, 0, 0, 0x7fff0,
  0xfffe6, 0x1fffdc, 0x3fffd2, 0x7fffd8, 0xffffea, 0x1ffffec, 0x3ffffe0, 0x7ffffde, 0xfffffe2, 0,
  0x3ffffffc,
];
// oxfmt-ignore
const COUNT: readonly number[] = [
  0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4,
];
// oxfmt-ignore
const OFFSET: readonly number[] = [
  0, 0, 0, 0, 0, 0, 10, 36, 68, 0, 74, 79, 82, 84, 90, 92, 0, 0, 0, 95, 98, 106, 119, 145, 174, 186, 190,
  205, 224, 0, 253,
];

/** Most bytes that `byteCount` coded bytes can stand for. */
export function huffmanDecodedMax(byteCount: number): number {
  return Math.floor((byteCount * 8) / LENGTH_MIN);
}

/**
 * Decodes `source[start .. end)` into `target` from 0, which must hold `huffmanDecodedMax` bytes. Returns the
 * number of bytes written, or -1 for bytes that are no Huffman string: EOS inside, padding that is not ones
 * or longer than 7 bits (RFC 7541 section 5.2).
 */
export function decodeHuffman(source: Buffer, start: number, end: number, target: Buffer): number {
  const bitCount = (end - start) * 8;
  let position = 0;
  let written = 0;
  while (position < bitCount) {
    let length = 0;
    let code = 0;
    let symbol = -1;
    while (position + length < bitCount && length < LENGTH_MAX) {
      const bit = position + length;
      code = (code << 1) | (((source[start + (bit >> 3)] ?? 0) >> (7 - (bit & 7))) & 1);
      length++;
      if (length < LENGTH_MIN) continue;
      const index = code - (FIRST_CODE[length] ?? 0);
      if (index >= 0 && index < (COUNT[length] ?? 0)) {
        symbol = SYMBOLS[(OFFSET[length] ?? 0) + index] ?? EOS;
        break;
      }
    }
    if (symbol === -1) {
      return length <= PADDING_MAX_BITS && code === (1 << length) - 1 ? written : -1;
    }
    if (symbol === EOS) return -1;
    target[written++] = symbol;
    position += length;
  }
  return written;
}
