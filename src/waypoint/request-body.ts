/**
 * The body of a request on its way to whichever upstream is being tried: passes on what comes, keeps what may have to be
 * sent again, and gives the client's window back only for what has gone out.
 *
 * What is kept is bounded by `replayMaxBytes`; a body that grows beyond it can be sent only once. Before an upstream
 * is open at most the client's own window waits here.
 */

import type { HeaderList } from '../http/h2/contract.ts';
import type { HttpStream } from '../http/http-stream.ts';

/** As Linkerd and Envoy do. */
const REPLAY_MAX_BYTES = 64 * 1024;

export class RequestBody {
  readonly #client: HttpStream;
  #pieces: Buffer[] = [];
  #keptBytes = 0;
  /** Everything so far is in `#pieces`. */
  #complete = true;
  #keeps: boolean;
  #keptMax = REPLAY_MAX_BYTES;
  #discards = false;
  #upstream: HttpStream | undefined;
  #ended = false;
  #trailers: HeaderList | undefined;
  /** Bytes taken from the client that its window has not got back. */
  #owedBytes = 0;
  /** All that came. */
  bytes = 0;

  /** `keeps`: another try may be made. */
  constructor(client: HttpStream, keeps: boolean) {
    this.#client = client;
    this.#keeps = keeps;
  }

  /** Whether a new upstream would get the whole body. */
  get replayable(): boolean {
    return this.#complete;
  }

  /** Bytes wait for an upstream that does not take them. */
  get waits(): boolean {
    return this.#owedBytes > 0;
  }

  /** Nothing will follow, and nothing came: the request is its head alone. */
  get empty(): boolean {
    return this.#ended && this.bytes === 0 && this.#trailers === undefined;
  }

  /** Keeps less than by default: what a policy says. */
  keepAtMost(bytes: number): void {
    this.#keptMax = Math.min(REPLAY_MAX_BYTES, bytes);
  }

  push(chunk: Buffer): void {
    this.bytes += chunk.length;
    this.#owedBytes += chunk.length;
    const upstream = this.#upstream;
    if (this.#discards) {
      this.#repay();
      return;
    }
    if (this.#complete && (this.#keeps || upstream === undefined)) {
      if (upstream !== undefined && this.#keptBytes + chunk.length > this.#keptMax) {
        this.#drop();
        this.#complete = false;
      } else {
        this.#pieces.push(Buffer.from(chunk));
        this.#keptBytes += chunk.length;
      }
    } else if (upstream !== undefined) this.#complete = false;
    if (upstream !== undefined && upstream.write(chunk)) this.#repay();
  }

  end(trailers: HeaderList | undefined): void {
    if (trailers !== undefined) this.#trailers = trailers;
    this.#ended = true;
    this.#finish();
  }

  /** An upstream is there: what has come goes out to it. `headOnly`: it knows already that nothing follows. */
  attach(upstream: HttpStream, headOnly: boolean): void {
    this.#upstream = upstream;
    if (headOnly) return;
    let open = true;
    for (const piece of this.#pieces) open = upstream.write(piece);
    if (!this.#keeps || this.#keptBytes > this.#keptMax) this.#drop();
    if (open) this.#repay();
    this.#finish();
  }

  /** What has come so far, for who is given the rest as it comes. All of it, as long as no upstream was attached. */
  copyTo(other: { push(chunk: Buffer): void; end(trailers: HeaderList | undefined): void }): void {
    for (const piece of this.#pieces) other.push(piece);
    if (this.#ended) other.end(this.#trailers);
  }

  /** That upstream has failed; another may be attached. */
  detach(): void {
    this.#upstream = undefined;
  }

  /** No other try will be made: nothing needs to be kept. */
  settle(): void {
    this.#keeps = false;
    if (this.#upstream !== undefined) this.#drop();
  }

  /** The upstream takes more. */
  drained(): void {
    this.#repay();
  }

  /** Nobody wants the rest: it is taken and thrown away. */
  discard(): void {
    this.#discards = true;
    this.#drop();
    this.#upstream = undefined;
    this.#repay();
  }

  #finish(): void {
    const upstream = this.#upstream;
    if (!this.#ended || upstream === undefined) return;
    if (this.#trailers === undefined) upstream.end();
    else upstream.sendHeaders(this.#trailers, true);
  }

  #drop(): void {
    if (this.#pieces.length > 0) this.#complete = false;
    this.#pieces = [];
    this.#keptBytes = 0;
  }

  #repay(): void {
    const owed = this.#owedBytes;
    if (owed === 0) return;
    this.#owedBytes = 0;
    this.#client.consume(owed);
  }
}
