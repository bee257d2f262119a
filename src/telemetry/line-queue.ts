/**
 * Lines that wait to be written, kept as the bytes they will be: the texts they came as, often put together from many
 * pieces, are garbage at once instead of living until the next write. Bytes that were taken are never written to again.
 */

const PAGE_BYTES = 64 * 1024;

interface Page {
  readonly bytes: Buffer;
  /** Of each line. */
  readonly sizes: number[];
  /** Lines and bytes that have been taken. */
  takenLines: number;
  takenBytes: number;
  usedBytes: number;
}

export class LineQueue {
  readonly #pages: Page[] = [];

  /** `byteCount`: of the line as UTF-8, at most 64 KiB. */
  push(line: string, byteCount: number): void {
    let page = this.#pages.at(-1);
    if (page === undefined || page.usedBytes + byteCount > PAGE_BYTES) {
      const bytes = Buffer.allocUnsafeSlow(PAGE_BYTES);
      page = { bytes, sizes: [], takenLines: 0, takenBytes: 0, usedBytes: 0 };
      this.#pages.push(page);
    }
    page.bytes.write(line, page.usedBytes, byteCount === line.length ? 'latin1' : 'utf8');
    page.usedBytes += byteCount;
    page.sizes.push(byteCount);
  }

  /** The oldest lines, whole ones: as many as `maxBytes` hold, at least one. Undefined: there are none. */
  take(maxBytes: number): Buffer | undefined {
    let page = this.#pages[0];
    while (page !== undefined && page.takenLines === page.sizes.length && this.#pages.length > 1) {
      this.#pages.shift();
      page = this.#pages[0];
    }
    if (page === undefined || page.takenLines === page.sizes.length) return undefined;
    const from = page.takenBytes;
    do {
      page.takenBytes += page.sizes[page.takenLines] ?? 0;
      page.takenLines++;
    } while (page.takenBytes - from + (page.sizes[page.takenLines] ?? Infinity) <= maxBytes);
    return page.bytes.subarray(from, page.takenBytes);
  }
}
