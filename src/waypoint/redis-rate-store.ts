/**
 * Rate limits counted by all waypoints together in Valkey or Redis (6 or newer): one key per limit and client, one
 * script per request, so that reading and taking are one step. The server's clock counts, not ours.
 *
 * - An answer later than the timeout is none. After one that failed the store is left alone for a moment, so that a
 *   dead store costs a request no wait.
 * - Keys expire when their budget is full again; the store holds only clients that were seen lately.
 * - The connection is made again for ever, with jitter; what is asked meanwhile fails at once.
 */

import { createHash } from 'node:crypto';

import { createClient } from '@redis/client';

import { createBackoff } from '../base/backoff.ts';
import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { describeDebt, type Rate } from '../base/gcra.ts';
import type { Random } from '../base/random.ts';
import type { RateStore } from './rate-limiter.ts';

export interface RedisRateStoreOptions {
  /** `redis://[user:password@]host:port/db`, or `rediss://` for TLS. */
  readonly url: string;
  readonly clock: Clock;
  readonly random: Random;
  /** For one answer. Default 100. */
  readonly timeoutMs?: number;
  /** How long a store that failed is left alone. Default 1,000. */
  readonly pauseMs?: number;
  /** Told when the connection comes and goes. */
  readonly onState: (connected: boolean, reason: string) => void;
}

export interface RedisRateStore extends RateStore, AsyncDisposable {
  /** Starts connecting; resolves at once. */
  start(): void;
}

/** Answers unasked for by then belong to requests that have gone on without. */
const COMMANDS_MAX = 4_096;
const KEY_PREFIX = 'nodemesh:rate:';

/** GCRA as in base/gcra.ts. Returns whether it is allowed, and the time until the budget is full, as a text. */
const SCRIPT = `
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
local unit = tonumber(ARGV[1])
local capacity = unit * tonumber(ARGV[2])
local before = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local after = before + unit
if after - now > capacity + unit / 1000 then
  return {0, string.format('%.3f', before - now)}
end
redis.call('SET', KEYS[1], string.format('%.3f', after), 'PX', math.ceil(after - now) + 1)
return {1, string.format('%.3f', after - now)}
`;
const SCRIPT_SHA = createHash('sha1').update(SCRIPT).digest('hex');

export function createRedisRateStore(options: RedisRateStoreOptions): RedisRateStore {
  const { clock, random, timeoutMs = 100, pauseMs = 1_000, onState } = options;
  const backoff = createBackoff(random, { initialMs: 100, maxMs: 5_000 });
  const client = createClient({
    url: options.url,
    disableOfflineQueue: true,
    commandsQueueMaxLength: COMMANDS_MAX,
    socket: {
      connectTimeout: 2_000,
      reconnectStrategy: () => Math.ceil(backoff.nextMs()),
    },
  });
  client.on('error', (error: unknown) => onState(false, reasonOf(error)));
  client.on('ready', () => {
    backoff.reset();
    pausedUntilMs = -Infinity;
    onState(true, '');
  });
  let pausedUntilMs = -Infinity;

  const run = async (key: string, rate: Rate): Promise<unknown> => {
    const args = ['1', KEY_PREFIX + key, String(rate.unitMs), String(rate.burst)];
    try {
      return await client.sendCommand(['EVALSHA', SCRIPT_SHA, ...args]);
    } catch (error) {
      if (!reasonOf(error).startsWith('NOSCRIPT')) throw error;
      return client.sendCommand(['EVAL', SCRIPT, ...args]);
    }
  };

  return {
    start() {
      // Its failures arrive as `error` events too, and it tries again by itself.
      client.connect().catch((error: unknown) => onState(false, reasonOf(error)));
    },
    async take(key, rate) {
      if (clock.nowMs() < pausedUntilMs) throw storeError('it failed a moment ago');
      try {
        const reply = await withTimeout(clock, timeoutMs, run(key, rate));
        return readReply(reply, rate);
      } catch (error) {
        pausedUntilMs = clock.nowMs() + pauseMs;
        throw error instanceof MeshError ? error : storeError(reasonOf(error), error);
      }
    },
    async [Symbol.asyncDispose]() {
      client.destroy();
    },
  };
}

function readReply(reply: unknown, rate: Rate): Awaited<ReturnType<RateStore['take']>> {
  const [allowed, debt]: unknown[] = Array.isArray(reply) ? reply : [];
  const debtMs = Number(debt);
  if ((allowed !== 0 && allowed !== 1) || !Number.isFinite(debtMs)) {
    throw storeError('its answer is not one of ours');
  }
  return { allowed: allowed === 1, ...describeDebt(rate, debtMs) };
}

function withTimeout<T>(clock: Clock, timeoutMs: number, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = clock.after(timeoutMs, () => reject(storeError(`no answer in ${timeoutMs} ms`)));
    work.then(resolve, reject).finally(() => timer.cancel());
  });
}

function storeError(reason: string, cause?: unknown): MeshError {
  const message = `Cannot ask the shared rate limit store: ${reason}`;
  return new MeshError('MESH_RATE_STORE_FAILED', message, { cause, retryable: true });
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
