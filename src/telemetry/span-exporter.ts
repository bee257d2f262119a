/**
 * Sends the spans of sampled requests to a collector, in batches, beside the traffic and never in its way.
 *
 * - At most `QUEUE_MAX` requests wait; more are dropped. One batch is on its way at a time; one that fails three
 *   times is dropped. All that is dropped is counted.
 * - Whatever the collector does, the only effect is a counter.
 */

import type { Clock } from '../base/clock.ts';
import type { Registry } from '../base/metrics.ts';
import type { RequestRecord } from '../core/request-record.ts';
import { formatSpans, type ResourceAttributes } from './otlp-spans.ts';
import type { SpanSink } from './request-reporter.ts';

export interface SpanExporterParts {
  readonly clock: Clock;
  readonly registry: Registry;
  readonly resource: ResourceAttributes;
  readonly version: string;
  /** Posts one body; rejects when the collector has not taken it. */
  readonly post: (body: string) => Promise<void>;
}

export interface SpanExporter extends SpanSink {
  /** Sends what waits, once. */
  flush(): Promise<void>;
  close(): void;
}

export const QUEUE_MAX = 2_048;
const BATCH_MAX = 512;
const PERIOD_MS = 2_000;
const TRIES_MAX = 3;

export function createSpanExporter(parts: SpanExporterParts): SpanExporter {
  const { clock, registry, resource, version, post } = parts;
  const sent = registry.counter({
    name: 'nodemesh_traced_requests_sent_total',
    help: 'Requests whose spans a collector took',
  });
  const dropped = registry.counter({
    name: 'nodemesh_traced_requests_dropped_total',
    help: 'Requests whose spans were dropped',
    labels: ['reason'],
  });
  const queue: RequestRecord[] = [];
  let tries = 0;
  let sending: Promise<void> | undefined;

  const sendBatch = async (): Promise<void> => {
    const batch = queue.slice(0, BATCH_MAX);
    try {
      tries++;
      await post(formatSpans(batch, resource, version));
      sent.add(batch.length);
    } catch {
      if (tries < TRIES_MAX) return;
      dropped.add(batch.length, ['failed']);
    }
    tries = 0;
    queue.splice(0, batch.length);
  };
  const flush = (): Promise<void> => {
    if (queue.length === 0) return Promise.resolve();
    sending ??= sendBatch().finally(() => {
      sending = undefined;
    });
    return sending;
  };
  const timer = clock.every(PERIOD_MS, () => void flush());
  return {
    flush,
    add(record) {
      if (queue.length >= QUEUE_MAX) {
        dropped.add(1, ['overflow']);
        return;
      }
      queue.push(record);
      if (queue.length === BATCH_MAX) void flush();
    },
    close: () => timer.cancel(),
  };
}
