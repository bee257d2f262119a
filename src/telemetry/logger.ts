/**
 * The logger behind `base/logger.ts`: one JSON object per line, made by pino. What comes from outside cannot
 * break a line, hide another or steer a terminal (T109): control and direction characters are escaped, a text is
 * cut at 1 KiB, a line stays below the size that a pipe takes in one piece.
 */

import pino from 'pino';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { LogFields, Logger } from '../base/logger.ts';
import { jsonText, jsonValue } from './json-text.ts';
import { LOG_LINE_MAX_BYTES, type LogWriter } from './log-writer.ts';

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LoggerOptions {
  readonly clock: Clock;
  readonly writer: Pick<LogWriter, 'write'>;
  /** Default `info`. */
  readonly level?: LogLevel;
  /** On every line, such as `process` and `node`. */
  readonly fields?: LogFields;
}

/** For logs that put their lines together themselves. */
export interface LineLogger {
  /**
   * `members`: of the line's object, as text in ASCII, each with a comma in front (json-text.ts). False: the line would
   * be too long, and nothing was written.
   */
  write(level: LogLevel, message: string, members: string): boolean;
}

/** The root logger; children share its level. */
export interface RootLogger extends Logger {
  readonly level: LogLevel;
  /** Its lines have `fields` in front, and are as those of `child(fields)`. */
  lines(fields: LogFields): LineLogger;
  /** Takes effect at once, for every child. */
  setLevel(level: LogLevel): void;
}

const TEXT_MAX_BYTES = 1024;
/** For lines that would not fit into a pipe in one piece. */
const SHORT_TEXT_MAX_BYTES = 96;
const DEPTH_MAX = 4;
const ITEMS_MAX = 32;
const CUT = '…';
/** DEL, C1 controls (0x9b starts a terminal command as ESC [ does), line separators, direction marks. */
const UNSAFE = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
/** Names that the line has already. */
const RESERVED: ReadonlySet<string> = new Set(['level', 'time', 'msg', '__proto__']);

export function isLogLevel(text: string): text is LogLevel {
  return LOG_LEVELS.some((level) => level === text);
}

function cut(text: string, maxBytes: number): string {
  // A UTF-16 unit becomes at most three bytes: most texts need no count.
  if (text.length * 3 <= maxBytes || Buffer.byteLength(text) <= maxBytes) return text;
  const bytes = Buffer.from(text.slice(0, maxBytes)).subarray(0, maxBytes - CUT.length * 3);
  // A character cut in two reads as U+FFFD.
  return bytes.toString().replace(/\ufffd$/, '') + CUT;
}

function errorFields(error: Error, maxBytes: number, depth: number): unknown {
  const code = error instanceof MeshError ? error.code : (error as NodeJS.ErrnoException).code;
  return {
    ...(code === undefined ? {} : { code }),
    message: cut(error.message, maxBytes),
    ...(error.cause === undefined ? {} : { cause: plain(error.cause, maxBytes, depth + 1) }),
  };
}

/** A copy that JSON can hold: bounded in depth, width and text. */
function plain(value: unknown, maxBytes: number, depth: number): unknown {
  if (typeof value === 'string') return cut(value, maxBytes);
  if (typeof value === 'number' || typeof value === 'boolean') return value;
  if (value === undefined || value === null) return value;
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object') return `a ${typeof value}`;
  if (depth > DEPTH_MAX) return CUT;
  if (value instanceof Error) return errorFields(value, maxBytes, depth);
  if (Array.isArray(value)) {
    const items = value.slice(0, ITEMS_MAX).map((item) => plain(item, maxBytes, depth + 1));
    return value.length > ITEMS_MAX ? [...items, CUT] : items;
  }
  if (value instanceof Uint8Array) return cut(Buffer.from(value).toString('hex'), maxBytes);
  const entries = Object.entries(value).slice(0, ITEMS_MAX);
  return Object.fromEntries(
    entries.map(([key, item]) => [cut(key, maxBytes), plain(item, maxBytes, depth + 1)]),
  );
}

function plainFields(fields: LogFields, maxBytes: number): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const key of Object.keys(fields)) {
    result[RESERVED.has(key) ? `field_${key}` : key] = plain(fields[key], maxBytes, 0);
  }
  return result;
}

/** pino's line, made safe for terminals and short enough for a pipe. */
function finishLine(line: string): string {
  const safe = line.replace(UNSAFE, (char) => {
    return `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
  if (Buffer.byteLength(safe) <= LOG_LINE_MAX_BYTES) return safe;
  const parsed = JSON.parse(line) as Record<string, unknown>;
  for (const maxBytes of [SHORT_TEXT_MAX_BYTES, 0]) {
    const { level, time, msg, ...rest } = parsed;
    const kept = maxBytes === 0 ? {} : plainFields(rest, maxBytes);
    const head = { level, time, ...kept, msg: cut(String(msg), SHORT_TEXT_MAX_BYTES) };
    const shorter = `${JSON.stringify({ ...head, shortened: true })}\n`.replace(UNSAFE, CUT);
    if (Buffer.byteLength(shorter) <= LOG_LINE_MAX_BYTES) return shorter;
  }
  return '';
}

/** Its lines go to `writer`, which must not block; what the logger is given is never kept. */
export function createLogger(options: LoggerOptions): RootLogger {
  const { clock, writer } = options;
  /** Many lines have the same time; writing it costs more than the rest of a short line. */
  let stampMs = Number.NaN;
  let stamp = '';
  let level = options.level ?? 'info';
  let threshold = LOG_LEVELS.indexOf(level);
  const timestamp = (): string => {
    const wallMs = Math.trunc(clock.wallMs());
    if (wallMs !== stampMs) {
      stampMs = wallMs;
      stamp = `,"time":"${new Date(wallMs).toISOString()}"`;
    }
    return stamp;
  };
  const base = plainFields(options.fields ?? {}, TEXT_MAX_BYTES);
  const root = pino(
    {
      // Filtered before it gets here: pino's children keep the level they were made with.
      level: 'debug',
      base,
      timestamp,
      // pino has a serializer of its own for this name, which adds the stack.
      serializers: { err: (value: unknown) => value },
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: (line: string) => writer.write(finishLine(line)) },
  );
  const wrap = (inner: pino.Logger): Logger => {
    const log = (name: LogLevel): Logger['info'] => {
      const own = LOG_LEVELS.indexOf(name);
      return (message, fields) => {
        if (own < threshold) return;
        const text = cut(message, TEXT_MAX_BYTES);
        inner[name](fields === undefined ? {} : plainFields(fields, TEXT_MAX_BYTES), text);
      };
    };
    return {
      debug: log('debug'),
      info: log('info'),
      warn: log('warn'),
      error: log('error'),
      child: (fields) => wrap(inner.child(plainFields(fields, TEXT_MAX_BYTES))),
    };
  };
  return {
    ...wrap(root),
    lines(fields) {
      const own = { ...base, ...plainFields(fields, TEXT_MAX_BYTES) };
      const start = Object.entries(own)
        .map(([name, value]) => `,${jsonValue(name)}:${jsonValue(value)}`)
        .join('');
      return {
        write(name, message, members) {
          if (LOG_LEVELS.indexOf(name) < threshold) return true;
          const line = `{"level":"${name}"${timestamp()}${start}${members},"msg":${jsonText(message)}}\n`;
          if (line.length > LOG_LINE_MAX_BYTES) return false;
          writer.write(line, line.length);
          return true;
        },
      };
    },
    get level() {
      return level;
    },
    setLevel(next) {
      level = next;
      threshold = LOG_LEVELS.indexOf(next);
    },
  };
}
