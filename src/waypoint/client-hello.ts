/**
 * The server name a TLS client asks for, read from its ClientHello and nothing else (RFC 8446 section 4.1.2, RFC 6066
 * section 3). Bounded; what is not a ClientHello is not one.
 */

export type ServerName =
  | { readonly kind: 'more' }
  /** `name`: lower case; empty when the client sends none. */
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'invalid' };

/** Larger ones (many key shares and tickets) are some KiB. */
export const CLIENT_HELLO_MAX_BYTES = 16_384;
const MORE: ServerName = { kind: 'more' };
const INVALID: ServerName = { kind: 'invalid' };
const NO_NAME: ServerName = { kind: 'name', name: '' };
const RECORD_HEAD_BYTES = 5;
const HANDSHAKE_RECORD = 22;
const CLIENT_HELLO = 1;
const EXTENSION_SERVER_NAME = 0;
const HOST_NAME = 0;
const RANDOM_BYTES = 32;
const NAME =
  /^(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*$/;

export function readServerName(bytes: Buffer): ServerName {
  const message = joinRecords(bytes);
  if (message === undefined) return INVALID;
  if (message.length < 4) return MORE;
  if (message[0] !== CLIENT_HELLO) return INVALID;
  const length = message.readUIntBE(1, 3);
  if (length > CLIENT_HELLO_MAX_BYTES) return INVALID;
  if (message.length < 4 + length) return MORE;
  return readHello(new Reader(message.subarray(4, 4 + length)));
}

/** The handshake bytes of the complete and begun records; undefined: other records are among them. */
function joinRecords(bytes: Buffer): Buffer | undefined {
  const parts: Buffer[] = [];
  let at = 0;
  while (at + RECORD_HEAD_BYTES <= bytes.length) {
    const length = bytes.readUInt16BE(at + 3);
    if (bytes[at] !== HANDSHAKE_RECORD || bytes[at + 1] !== 3) return undefined;
    if (length === 0 || length > CLIENT_HELLO_MAX_BYTES) return undefined;
    const end = at + RECORD_HEAD_BYTES + length;
    parts.push(bytes.subarray(at + RECORD_HEAD_BYTES, end));
    at = end;
  }
  return parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts);
}

function readHello(hello: Reader): ServerName {
  hello.skip(2 + RANDOM_BYTES);
  hello.skip(hello.uint8());
  hello.skip(hello.uint16());
  hello.skip(hello.uint8());
  if (hello.failed) return INVALID;
  if (hello.left === 0) return NO_NAME;
  const extensions = hello.take(hello.uint16());
  if (hello.failed || hello.left > 0) return INVALID;
  let found: ServerName | undefined;
  while (extensions.left > 0 && !extensions.failed) {
    const type = extensions.uint16();
    const content = extensions.take(extensions.uint16());
    if (type !== EXTENSION_SERVER_NAME) continue;
    if (found !== undefined) return INVALID;
    found = readNames(content);
  }
  return extensions.failed ? INVALID : (found ?? NO_NAME);
}

function readNames(content: Reader): ServerName {
  const list = content.take(content.uint16());
  const type = list.uint8();
  const name = list.take(list.uint16());
  if (content.failed || list.failed || content.left > 0 || list.left > 0 || type !== HOST_NAME) {
    return INVALID;
  }
  const text = name.text().toLowerCase();
  return NAME.test(text) ? { kind: 'name', name: text } : INVALID;
}

/** Reads forward; what is missing reads as 0 and sets `failed`. */
class Reader {
  readonly #bytes: Buffer;
  #at = 0;
  failed = false;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  uint8(): number {
    return this.#number(1);
  }

  uint16(): number {
    return this.#number(2);
  }

  skip(count: number): void {
    if (count > this.left) this.failed = true;
    this.#at = Math.min(this.#bytes.length, this.#at + count);
  }

  take(count: number): Reader {
    const start = this.#at;
    this.skip(count);
    return new Reader(this.#bytes.subarray(start, this.#at));
  }

  text(): string {
    return this.#bytes.toString('latin1', this.#at);
  }

  #number(count: number): number {
    if (count > this.left) {
      this.failed = true;
      this.#at = this.#bytes.length;
      return 0;
    }
    const value = this.#bytes.readUIntBE(this.#at, count);
    this.#at += count;
    return value;
  }
}
