/**
 * An HTTP/2 session on a socket, either side (RFC 9113). It owns the socket from its creation until both are
 * closed, and everything that lives on it: streams, windows, budgets, keepalive.
 *
 * - `open` until a GOAWAY either way, `draining` until the last stream has ended, then `closed`.
 * - On a connection error or a spent budget every stream is reset first, GOAWAY is sent, and what the peer still
 *   sends is dropped unread. A socket that is not closed `reapAfterMs` later is destroyed (T71).
 * - Nothing that a peer sends and nothing that a handler throws leaves the socket's callbacks.
 */

import type { Socket } from 'node:net';

import type { Clock, Timer } from '../../base/clock.ts';
import { errorFromNode, type MeshError } from '../../base/errors.ts';
import type { ByteStream } from '../byte-stream.ts';
import { createAbuseBudget, type AbuseBudget } from './budget.ts';
import {
  H2_ERROR,
  type H2Session,
  type H2Stream,
  type H2StreamHandlers,
  type HeaderList,
} from './contract.ts';
import { PREFACE, SETTING, STREAM_ID_MAX, WINDOW_DEFAULT, WINDOW_MAX } from './frames.ts';
import { Keepalive } from './keepalive.ts';
import { H2_LIMITS_DEFAULT, type H2Limits } from './limits.ts';
import { Output } from './output.ts';
import { PacedInput } from './paced-input.ts';
import { ConnectionWindow, StreamWindow, STREAM_WINDOW_BYTES } from './receive-window.ts';
import { Receiver, type ReceiverHost } from './receiver.ts';
import { PING_BYTES, Sender } from './sender.ts';
import { applySettings, createPeerSettings, encodeSettings } from './settings.ts';
import type { H2SessionOptions } from './session-options.ts';
import * as errors from './session-errors.ts';
import { Stream, type StreamOwner } from './stream.ts';
import { StreamTable, type AbsentStream } from './stream-table.ts';
import { socketTransport, streamTransport, type Transport } from './transport.ts';

const FRAME_SIZE_ADVERTISED = 256 * 1024;
/** Bytes a peer may still send after its session has failed; more, and the socket is destroyed at once. */
const DISCARD_MAX_BYTES = 1024 * 1024;
/** Opaque data of our PINGs: the round trip's, and the one between the two GOAWAYs of a drain. */
const PING_ROUND_TRIP = 1;
const PING_DRAIN = 2;
/** The second GOAWAY of a server's drain does not wait longer for the PING's answer. */
const DRAIN_NOTICE_MS = 1000;

/** The socket must be connected or connecting; TLS: `h2` must have been negotiated. */
export function createH2Session(socket: Socket, options: H2SessionOptions): H2Session {
  return new Session(socketTransport(socket, options.readBuffers), options);
}

/** A session inside another connection. It owns the stream and sets its handlers. */
export function createNestedH2Session(stream: ByteStream, options: H2SessionOptions): H2Session {
  return new Session(streamTransport(stream), options);
}

class Session implements H2Session, StreamOwner, ReceiverHost {
  readonly isServer: boolean;
  readonly limits: H2Limits;
  readonly budget: AbuseBudget;
  readonly connection: ConnectionWindow;
  readonly maxFrameBytes: number;
  readonly sender: Sender;
  readonly #socket: Transport;
  readonly #options: H2SessionOptions;
  readonly #clock: Clock;
  readonly #output: Output;
  readonly #receiver: Receiver;
  readonly #input: PacedInput;
  readonly #keepalive: Keepalive;
  readonly #peer = createPeerSettings();
  readonly #streams: StreamTable;
  readonly #initialWindowBytes: number;
  readonly #bornMs: number;
  #state: 'open' | 'draining' | 'closed' = 'open';
  /** Ids above it are not served: we have said so in the last GOAWAY. */
  #lastServedId = STREAM_ID_MAX;
  #finalGoawaySent = false;
  #settingsAcked = false;
  #queuedBytes = 0;
  #prefaceBytes = 0;
  #drainTimer: Timer | undefined;
  #reaper: Timer | undefined;
  #discardedBytes = 0;
  #closeError: MeshError | undefined;
  #slotsListener: (() => void) | undefined;
  #closedListeners: ((error: MeshError | undefined) => void)[] = [];

  constructor(socket: Transport, options: H2SessionOptions) {
    const { clock } = options;
    this.#socket = socket;
    this.#options = options;
    this.#clock = clock;
    this.#bornMs = clock.nowMs();
    this.isServer = options.role === 'server';
    this.limits = { ...H2_LIMITS_DEFAULT, ...options.limits };
    this.maxFrameBytes = options.maxFrameBytes ?? FRAME_SIZE_ADVERTISED;
    this.#initialWindowBytes = options.initialWindowBytes ?? STREAM_WINDOW_BYTES;
    this.#streams = new StreamTable(this.isServer);
    this.budget = createAbuseBudget(clock, this.limits);
    this.#output = new Output(socket, () => this.sender.onWritable());
    this.sender = new Sender(this.#output, this.#peer, this.budget);
    this.connection = new ConnectionWindow(clock, options.windowBudget, (streamId, bytes) => {
      if (this.#state !== 'closed') this.sender.windowUpdate(streamId, bytes);
    });
    this.#receiver = new Receiver(this, (timeoutMs, callback) => clock.after(timeoutMs, callback));
    this.#input = new PacedInput(socket, {
      push: (buffer, start, end) => this.#onChunk(buffer, start, end),
      ended: () => this.#onSocketEnd(undefined),
    });
    socket.read({
      onChunk: (buffer, offset, length) => this.#input.push(buffer, offset, offset + length),
      onEnd: () => this.#input.end(),
      onError: (error) => this.#onSocketEnd(errorFromNode(error, 'The HTTP/2 connection failed')),
      onClose: () => this.#onSocketClosed(),
    });
    this.#keepalive = new Keepalive(clock, this.limits.prefaceTimeoutMs, {
      tick: () => this.#onTick(),
      ping: () => this.#sendPing(PING_ROUND_TRIP),
      roundTrip: (rttMs) => this.connection.measured(rttMs),
      notStarted: () => this.fail(H2_ERROR.SETTINGS_TIMEOUT, errors.noPreface()),
      dead: () => this.#onDead(),
      suspicion: () => this.#tellSlots(),
    });
    if (this.isServer) this.#prefaceBytes = PREFACE.length;
    else this.#sendPreface();
    this.#sendSettings();
  }

  get session(): H2Session {
    return this;
  }

  get state(): 'open' | 'draining' | 'closed' {
    return this.#state;
  }

  get stopped(): boolean {
    return this.#state === 'closed';
  }

  get spent(): boolean {
    return this.#input.spent;
  }

  get openStreams(): number {
    return this.#streams.size;
  }

  get suspect(): boolean {
    return this.#keepalive.suspect;
  }

  get streamSlots(): number {
    if (this.#state !== 'open' || this.isServer) return 0;
    const ids = Math.floor((this.limits.streamIdMax - this.#streams.nextId) / 2) + 1;
    return Math.max(0, Math.min(this.#peer.maxConcurrentStreams - this.#streams.size, ids));
  }

  request(headers: HeaderList, handlers: H2StreamHandlers, endStream: boolean): H2Stream {
    if (this.streamSlots === 0) throw errors.noSlots();
    const method = headers.find(([name]) => name === ':method')?.[1] ?? '';
    const stream = this.#createStream(this.#streams.nextId, method);
    // Before the stream is known: it throws for headers that may not be sent.
    this.sender.headers(stream.id, headers, endStream);
    this.#streams.nextId += 2;
    this.#streams.add(stream);
    stream.setHandlers(handlers);
    stream.requested(endStream);
    if (this.#streams.nextId > this.limits.streamIdMax) this.drain();
    return stream;
  }

  probe(): void {
    this.#keepalive.probe();
  }

  drain(): void {
    if (this.#state !== 'open') return;
    this.#state = 'draining';
    if (this.isServer) {
      // Two steps (RFC 9113 section 6.8): requests that cross the first one on the wire are still served.
      this.sender.goaway(STREAM_ID_MAX, H2_ERROR.NO_ERROR);
      this.#sendPing(PING_DRAIN);
      this.#drainTimer = this.#clock.after(DRAIN_NOTICE_MS, () => this.#sendFinalGoaway());
    } else this.#sendFinalGoaway();
    this.#tellSlots();
  }

  destroy(error?: MeshError): void {
    if (this.#state !== 'closed') {
      const code = error === undefined ? H2_ERROR.NO_ERROR : H2_ERROR.INTERNAL_ERROR;
      this.sender.goaway(this.#streams.lastPeerId, code);
      this.#output.flush();
      this.#close(error);
    }
    this.#socket.destroy();
  }

  onClosed(listener: (error: MeshError | undefined) => void): void {
    if (this.#state === 'closed') this.#guard(() => listener(this.#closeError));
    else this.#closedListeners.push(listener);
  }

  onSlots(listener: () => void): void {
    this.#slotsListener = listener;
  }

  stream(streamId: number): Stream | undefined {
    return this.#streams.get(streamId);
  }

  absent(streamId: number): AbsentStream {
    return this.#streams.absent(streamId);
  }

  onStreamClosed(stream: Stream): void {
    this.#streams.remove(stream);
    if (this.#state === 'closed') return;
    this.#finishIfDrained();
    this.#tellSlots();
  }

  onStreamReleased(): void {
    this.#streams.retained--;
  }

  onHandlerError(error: unknown): void {
    this.#options.onHandlerError?.(error);
  }

  onQueued(bytes: number): boolean {
    this.#queuedBytes += bytes;
    return bytes <= 0 || this.#queuedBytes <= this.limits.queuedMaxBytes;
  }

  admit(streamId: number): boolean {
    this.#streams.lastPeerId = streamId;
    if (streamId > this.#lastServedId) {
      this.#streams.markReset(streamId);
      return false;
    }
    if (this.#streams.size + this.#streams.retained < this.limits.streamsMax) return true;
    // Counted as a reset: a peer that respects our SETTINGS is refused only in the first round trip.
    if (!this.budget.resetReceived(true)) this.failAbuse();
    else {
      this.#streams.markReset(streamId);
      this.#control();
      this.sender.reset(streamId, H2_ERROR.REFUSED_STREAM);
    }
    return false;
  }

  onRequest(
    streamId: number,
    headers: HeaderList,
    endStream: boolean,
    method: string,
    contentLength: number | undefined,
  ): void {
    const stream = this.#createStream(streamId, method);
    stream.headSeen = true;
    stream.expectedBytes = contentLength;
    this.#streams.add(stream);
    this.#input.count();
    try {
      this.#options.onStream?.(stream, headers, endStream);
    } catch (cause) {
      this.onHandlerError(cause);
      const error = errors.resetHere(streamId, 'its request could not be served', cause);
      stream.resetWith(H2_ERROR.INTERNAL_ERROR, error);
    }
    if (endStream) stream.receiveEnd();
    if (this.limits.streamIdMax <= streamId) this.drain();
  }

  onRequestTooLarge(streamId: number): void {
    if (!this.budget.resetProvoked()) {
      this.failAbuse();
      return;
    }
    this.#streams.markReset(streamId);
    this.sender.headers(streamId, [[':status', '431']], true);
    this.#control();
    this.sender.reset(streamId, H2_ERROR.NO_ERROR);
  }

  onSettings(payload: Buffer): void {
    const before = this.#peer.initialWindowBytes;
    const slots = this.streamSlots;
    const code = applySettings(this.#peer, payload, !this.isServer);
    if (code !== H2_ERROR.NO_ERROR) {
      this.fail(code, errors.protocolError('The peer sent invalid SETTINGS'));
      return;
    }
    this.#keepalive.started();
    this.#control();
    this.sender.settingsAck();
    this.#shiftWindows(this.#peer.initialWindowBytes - before);
    if (this.streamSlots !== slots) this.#tellSlots();
  }

  onSettingsAck(): void {
    this.#settingsAcked = true;
  }

  onPing(payload: Buffer, ack: boolean): void {
    if (!ack) {
      this.#control();
      this.sender.ping(payload, true);
      return;
    }
    const kind = payload[PING_BYTES - 1];
    if (kind === PING_DRAIN) this.#sendFinalGoaway();
    if (kind === PING_ROUND_TRIP) this.#keepalive.pong();
  }

  onGoaway(lastStreamId: number, code: number): void {
    const wasOpen = this.#state === 'open';
    if (wasOpen) this.#state = 'draining';
    if (!this.isServer) {
      for (const stream of this.#streams.values()) {
        if (stream.id > lastStreamId) stream.kill(errors.notProcessed(stream.id, code));
      }
    }
    // After an error the peer closes; what it does not close in time is reaped.
    if (code !== H2_ERROR.NO_ERROR) this.#startReaper();
    this.#finishIfDrained();
    if (wasOpen && this.#state === 'draining') this.#tellSlots();
  }

  onWindowUpdate(stream: Stream | undefined, bytes: number): void {
    if (stream === undefined) {
      if (this.sender.addWindow(bytes)) return;
      this.#failWindow();
      return;
    }
    stream.sendWindow += bytes;
    if (stream.hasQueued && stream.sendWindow > 0) this.sender.ready(stream);
  }

  onReset(stream: Stream, code: number): void {
    if (this.isServer && !this.budget.resetReceived(!stream.answered)) {
      this.failAbuse();
      return;
    }
    stream.kill(errors.resetByPeer(stream.id, code), code);
  }

  refuse(streamId: number, code: number, reason: string): void {
    if (!this.budget.resetProvoked()) {
      this.failAbuse();
      return;
    }
    this.#control();
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      this.#streams.markReset(streamId);
      this.sender.reset(streamId, code);
    } else stream.resetWith(code, errors.streamProtocolError(streamId, reason));
  }

  fail(code: number, error: MeshError): void {
    if (this.#state === 'closed') return;
    this.sender.goaway(this.#streams.lastPeerId, code);
    this.#output.end();
    this.#close(error);
  }

  failAbuse(): void {
    this.fail(H2_ERROR.ENHANCE_YOUR_CALM, errors.abusive(this.budget.violation));
  }

  #tellSlots(): void {
    const listener = this.#slotsListener;
    if (listener !== undefined) this.#guard(listener);
  }

  #guard(listener: () => void): void {
    try {
      listener();
    } catch (error) {
      this.onHandlerError(error);
    }
  }

  #createStream(streamId: number, method: string): Stream {
    // Until our SETTINGS are acknowledged the peer may go by the protocol's default.
    const grace = this.#settingsAcked ? 0 : Math.max(0, WINDOW_DEFAULT - this.#initialWindowBytes);
    const window = new StreamWindow(this.connection, streamId, this.#initialWindowBytes, grace);
    return new Stream(this, streamId, method, this.#peer.initialWindowBytes, window);
  }

  #sendPreface(): void {
    const at = this.#output.reserve(PREFACE.length);
    this.#output.buffer.write(PREFACE, at, 'latin1');
  }

  #sendSettings(): void {
    const { streamsMax, headerListMaxBytes } = this.limits;
    const own = this.isServer
      ? ([SETTING.MAX_CONCURRENT_STREAMS, streamsMax] as const)
      : ([SETTING.ENABLE_PUSH, 0] as const);
    this.sender.settings(
      encodeSettings([
        own,
        [SETTING.INITIAL_WINDOW_SIZE, this.#initialWindowBytes],
        [SETTING.MAX_FRAME_SIZE, this.maxFrameBytes],
        [SETTING.MAX_HEADER_LIST_SIZE, headerListMaxBytes],
      ]),
    );
    this.connection.open();
  }

  #sendPing(kind: number): void {
    if (this.#state === 'closed') return;
    const payload = Buffer.alloc(PING_BYTES);
    payload[PING_BYTES - 1] = kind;
    this.sender.ping(payload, false);
  }

  #sendFinalGoaway(): void {
    if (this.#finalGoawaySent || this.#state === 'closed') return;
    this.#finalGoawaySent = true;
    this.#drainTimer?.cancel();
    this.#lastServedId = this.#streams.lastPeerId;
    this.sender.goaway(this.#streams.lastPeerId, H2_ERROR.NO_ERROR);
    this.#finishIfDrained();
  }

  /** An answer to something the peer sent goes out; they must not pile up. */
  #control(): void {
    this.#output.countControl();
    if (this.#output.controlFrames >= this.limits.controlQueuedMax) this.#output.flush();
    if (!this.budget.controlQueued(this.#output.controlFrames)) this.failAbuse();
  }

  /** The peer changed the window that new streams start with; open ones shift (RFC 9113 section 6.9.2). */
  #shiftWindows(change: number): void {
    if (change === 0) return;
    // A writer that is woken meanwhile may open streams, which start with the new window.
    for (const stream of this.#streams.values()) {
      stream.sendWindow += change;
      if (stream.sendWindow > WINDOW_MAX) {
        this.#failWindow();
        return;
      }
      if (stream.hasQueued && stream.sendWindow > 0) this.sender.ready(stream);
    }
  }

  #failWindow(): void {
    const error = errors.protocolError('The peer opened a window too far');
    this.fail(H2_ERROR.FLOW_CONTROL_ERROR, error);
  }

  #onChunk(buffer: Buffer, start: number, end: number): number {
    if (this.#state === 'closed') {
      this.#discardedBytes += end - start;
      if (this.#discardedBytes > DISCARD_MAX_BYTES) this.#socket.destroy();
      return end;
    }
    this.#keepalive.heard();
    let from = start;
    while (this.#prefaceBytes > 0 && from < end) {
      const expected = PREFACE.charCodeAt(PREFACE.length - this.#prefaceBytes);
      if (buffer[from] !== expected) {
        const error = errors.protocolError('The peer does not speak HTTP/2');
        this.fail(H2_ERROR.PROTOCOL_ERROR, error);
        return end;
      }
      this.#prefaceBytes--;
      from++;
    }
    return this.#receiver.push(buffer, from, end);
  }

  #onTick(): void {
    if (this.#state === 'closed') return;
    this.#output.shrink();
    const queuedBytes = this.#queuedBytes + this.#output.queuedBytes;
    if (!this.budget.stalled(queuedBytes, this.sender.sentBytes)) {
      this.failAbuse();
      return;
    }
    if (this.#clock.nowMs() - this.#bornMs >= this.limits.ageMaxMs) this.drain();
  }

  #onDead(): void {
    this.#close(errors.peerSilent());
    this.#socket.destroy();
  }

  /** FIN or failure: half a connection is of no use to HTTP/2. */
  #onSocketEnd(error: MeshError | undefined): void {
    if (this.#state === 'closed') return;
    this.#close(error ?? (this.#streams.size === 0 ? undefined : errors.connectionCut()));
    if (error !== undefined) this.#socket.destroy();
    else this.#output.end();
  }

  #onSocketClosed(): void {
    this.#onSocketEnd(undefined);
    this.#reaper?.cancel();
    this.#output.close();
  }

  #finishIfDrained(): void {
    if (this.#state !== 'draining' || this.#streams.size > 0) return;
    // A server that drains by itself still serves what crosses its first GOAWAY.
    if (this.isServer && this.#drainTimer !== undefined && !this.#finalGoawaySent) return;
    this.#output.end();
    this.#close(undefined);
  }

  #startReaper(): void {
    this.#reaper ??= this.#clock.after(this.limits.reapAfterMs, () => {
      this.#close(errors.peerLingers());
      this.#options.onReaped?.();
      this.#socket.destroy();
    });
  }

  /** The session is over; the socket follows by itself or by the reaper. */
  #close(error: MeshError | undefined): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#closeError = error;
    this.#keepalive.stop();
    this.#receiver.close();
    this.#drainTimer?.cancel();
    this.#startReaper();
    const reason = error ?? errors.sessionEnded();
    for (const stream of this.#streams.values()) stream.kill(reason);
    const listeners = this.#closedListeners;
    this.#closedListeners = [];
    for (const listener of listeners) this.#guard(() => listener(error));
    this.#tellSlots();
  }
}
