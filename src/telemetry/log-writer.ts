/**
 * Where log lines go: a file descriptor that may be slow, stuck or broken (F65, F66).
 *
 * - `write` never blocks and never throws. What does not fit into the queue is dropped and counted, and a line
 *   tells so once there is room again.
 * - Lines of 20 ms go out together: a write costs more than making a line. Whoever ends the process flushes; one that
 *   is killed takes the lines of its last 20 ms along.
 * - Lines stay whole, also when several processes share the descriptor: a pipe takes up to PIPE_BUF bytes as one
 *   piece or not at all, so nothing longer is written to one at once.
 * - `flushSync` is for the end of the process and waits for a slow reader, but not long.
 */

import { closeSync, constants, fstatSync, openSync, write as writeFile, writeSync } from 'node:fs';
import { Socket } from 'node:net';

import type { Clock, Timer } from '../base/clock.ts';
import { LineQueue } from './line-queue.ts';

/** PIPE_BUF on Linux. */
export const LOG_LINE_MAX_BYTES = 4096;
const QUEUE_MAX_BYTES = 1024 * 1024;
const RETRY_MS = 50;
const GATHER_MS = 20;
/** With so many bytes nothing is gained by waiting. */
const GATHER_MAX_BYTES = 32 * 1024;
const FLUSH_MAX_TRIES = 25;
const FLUSH_WAIT_MS = 10;
const FILE_BATCH_MAX_BYTES = 64 * 1024;

export interface LogWriter {
  /** Takes one line with its line break. `bytes`: its length as UTF-8, counted here by default. */
  write(line: string, bytes?: number): void;
  /** Lines dropped so far. */
  readonly droppedCount: number;
  /** Bytes that wait. */
  readonly queuedBytes: number;
  /** Writes what waits, for at most a quarter of a second. */
  flushSync(): void;
  /** Flushes and lets go of everything but the descriptor it was given. */
  close(): void;
}

/** How one kind of descriptor is written without ever blocking the caller. */
interface Sink {
  readonly batchMaxBytes: number;
  /** Calls `done` once, now or later, with the bytes that went out: 0 means try again, `LOST` never again. */
  write(bytes: Buffer, done: (written: number) => void): void;
  /** Like `write`, but never later. */
  writeNow(bytes: Buffer): number;
  close(): void;
}

/** The reader is gone or the disk is full. */
const LOST = -1;

function writeNow(fd: number, bytes: Buffer): number {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EAGAIN' ? 0 : LOST;
  }
}

/**
 * Node's own ways all block or pile up: `process.stdout` writes to pipes synchronously, and a blocked `fs.write`
 * holds one of four pool threads and then `process.exit` for ever (both tried). Opening the pipe again through
 * /proc gives a description of our own that can be non-blocking without changing the one we share.
 */
function openSink(fd: number): Sink {
  const stat = fstatSync(fd);
  if (stat.isFIFO() || stat.isCharacterDevice()) {
    try {
      const own = openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK);
      return {
        batchMaxBytes: LOG_LINE_MAX_BYTES,
        write: (bytes, done) => done(writeNow(own, bytes)),
        writeNow: (bytes) => writeNow(own, bytes),
        close: () => closeSync(own),
      };
    } catch {
      // EACCES: the pipe belongs to another user; then as for a socket.
    }
  }
  return stat.isFile() ? fileSink(fd) : socketSink(fd);
}

/** A file ends every write sooner or later; its offset is shared, so it is not opened again. */
function fileSink(fd: number): Sink {
  return {
    batchMaxBytes: FILE_BATCH_MAX_BYTES,
    write(bytes, done) {
      writeFile(fd, bytes, (error, written) => done(error === null ? written : LOST));
    },
    writeNow: (bytes) => writeNow(fd, bytes),
    close: () => {},
  };
}

/** Opening /proc/self/fd/N of a socket fails with ENXIO (tried); Node makes the shared one non-blocking. */
function socketSink(fd: number): Sink {
  const socket = new Socket({ fd, readable: false, writable: true });
  socket.on('error', () => {});
  socket.unref();
  return {
    batchMaxBytes: LOG_LINE_MAX_BYTES,
    // Not through it: what it still holds when the process ends could not be told from what has gone out.
    write: (bytes, done) => done(writeNow(fd, bytes)),
    writeNow: (bytes) => writeNow(fd, bytes),
    // Closing it would close the descriptor, which is not ours.
    close: () => {},
  };
}

/** `fd` stays the caller's. `onDrop` hears of each dropped line. */
export function createLogWriter(clock: Clock, fd: number, onDrop?: () => void): LogWriter {
  const sink = openSink(fd);
  const queue = new LineQueue();
  let queuedBytes = 0;
  /** The batch under way, and how much of it went out. */
  let batch: Buffer | undefined;
  /** The sink has the batch and will call; counts up, so that a call nobody waits for is known. */
  let isInFlight = false;
  let flight = 0;
  let droppedCount = 0;
  let unreported = 0;
  let gathering: Timer | undefined;
  let isScheduled = false;
  let isClosed = false;
  let retry: Timer | undefined;

  const drop = (): void => {
    droppedCount++;
    unreported++;
    onDrop?.();
  };
  const push = (line: string, bytes: number): void => {
    queue.push(line, bytes);
    queuedBytes += bytes;
  };
  /** As many whole lines as one write may carry, at least one. */
  const nextBatch = (): Buffer | undefined => {
    if (unreported > 0 && queuedBytes < QUEUE_MAX_BYTES / 2) {
      const note = `${JSON.stringify({ level: 'warn', time: new Date(clock.wallMs()).toISOString(), msg: 'Log lines were dropped: the reader is too slow', dropped: unreported })}\n`;
      unreported = 0;
      push(note, Buffer.byteLength(note));
    }
    return queue.take(sink.batchMaxBytes);
  };
  const advance = (result: number): void => {
    const written = result === LOST ? (batch?.length ?? 0) : result;
    // Not told in the log itself: that is what is broken.
    if (result === LOST) droppedCount += batch?.toString().split('\n').length ?? 0;
    queuedBytes -= written;
    batch = batch === undefined || written >= batch.length ? undefined : batch.subarray(written);
  };
  const pump = (): void => {
    gathering?.cancel();
    gathering = undefined;
    isScheduled = false;
    if (isClosed || retry !== undefined) return;
    let isSync = true;
    let isWaiting = false;
    while (!isWaiting) {
      batch ??= nextBatch();
      if (batch === undefined) return;
      isWaiting = true;
      isInFlight = true;
      const own = ++flight;
      sink.write(batch, (written) => {
        if (own !== flight) return;
        isInFlight = false;
        advance(written);
        if (written === 0) {
          retry = clock.after(RETRY_MS, () => {
            retry = undefined;
            pump();
          });
        } else if (isSync) {
          isWaiting = false;
        } else {
          pump();
        }
      });
    }
    isSync = false;
  };
  const flushSync = (): void => {
    if (isInFlight) {
      // It reaches the file from another thread; written here as well, it would be there twice.
      flight++;
      isInFlight = false;
      advance(batch?.length ?? 0);
    }
    const waiting = new Int32Array(new SharedArrayBuffer(4));
    for (let tries = 0; tries < FLUSH_MAX_TRIES;) {
      batch ??= nextBatch();
      if (batch === undefined) return;
      const written = sink.writeNow(batch);
      advance(written);
      if (written !== 0) continue;
      tries++;
      Atomics.wait(waiting, 0, 0, FLUSH_WAIT_MS);
    }
  };
  return {
    get droppedCount() {
      return droppedCount;
    },
    get queuedBytes() {
      return queuedBytes;
    },
    write(line, bytes = Buffer.byteLength(line)) {
      if (isClosed || queuedBytes + bytes > QUEUE_MAX_BYTES || bytes > LOG_LINE_MAX_BYTES) {
        drop();
        return;
      }
      push(line, bytes);
      if (isScheduled || batch !== undefined) return;
      if (queuedBytes >= GATHER_MAX_BYTES) {
        isScheduled = true;
        setImmediate(pump);
      } else gathering ??= clock.after(GATHER_MS, pump);
    },
    flushSync,
    close() {
      if (isClosed) return;
      flushSync();
      isClosed = true;
      retry?.cancel();
      gathering?.cancel();
      sink.close();
    },
  };
}
