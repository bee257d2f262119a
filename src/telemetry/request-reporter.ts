/** Where a waypoint's requests report to: the access log, the metrics, and the spans when tracing is on. */

import type { RequestRecord, RequestReporter } from '../core/request-record.ts';
import type { RequestLog } from './request-log.ts';
import type { RequestMetrics } from './request-metrics.ts';
import { tracedSpan, type Tracing } from './tracing.ts';

/** Takes the records of sampled requests. */
export interface SpanSink {
  add(record: RequestRecord): void;
}

export interface RequestReporterParts {
  readonly metrics: RequestMetrics;
  readonly log: RequestLog;
  /** Undefined: trace headers pass as they are. */
  readonly tracing?: Tracing | undefined;
  /** Undefined: nobody collects spans. */
  readonly spans?: SpanSink | undefined;
}

export function createRequestReporter(parts: RequestReporterParts): RequestReporter {
  const { metrics, log, tracing, spans } = parts;
  return {
    begin: (headers) => tracing?.begin(headers),
    messages: (edge, requests, responses) => metrics.countMessages(edge, requests, responses),
    ended(record) {
      metrics.count(record);
      log.record(record);
      if (spans !== undefined && tracedSpan(record)?.sampled === true) spans.add(record);
    },
  };
}
