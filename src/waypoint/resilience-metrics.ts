/** Metrics of retries, limits, outlier detection and faults. `service` is the key of the service in question. */

import type { Counter, Gauge, Registry } from '../base/metrics.ts';

export interface ResilienceMetrics {
  /** `outcome`: `retried`, `over_budget`. */
  readonly retries: Counter;
  /** `kind`: `request`, `per_try`, `idle`, `connect`. */
  readonly timeouts: Counter;
  /** `reason`: `requests`, `queue_timeout`, `connections`. */
  readonly shed: Counter;
  readonly queued: Counter;
  readonly ejections: Counter;
  readonly ejected: Gauge;
  /** `scope`: `local`, `shared`. */
  readonly rateLimited: Counter;
  /** `action`: `local`, `allow`, `deny`. */
  readonly rateStoreFailures: Counter;
  /** `kind`: `delay`, `abort`. */
  readonly faults: Counter;
}

export function createResilienceMetrics(registry: Registry): ResilienceMetrics {
  return {
    retries: registry.counter({
      name: 'nodemesh_retries_total',
      help: 'Attempts that failed and were made again, or were not because the budget was used up.',
      labels: ['service', 'outcome'],
    }),
    timeouts: registry.counter({
      name: 'nodemesh_request_timeouts_total',
      help: 'Requests and attempts that ran out of time.',
      labels: ['service', 'kind'],
    }),
    shed: registry.counter({
      name: 'nodemesh_requests_shed_total',
      help: 'Requests refused because a limit was reached.',
      labels: ['service', 'reason'],
    }),
    queued: registry.counter({
      name: 'nodemesh_requests_queued_total',
      help: 'Requests that waited for another to end.',
      labels: ['service'],
    }),
    ejections: registry.counter({
      name: 'nodemesh_outlier_ejections_total',
      help: 'Times that an endpoint was taken out because it failed.',
      labels: ['service'],
    }),
    ejected: registry.gauge({
      name: 'nodemesh_outlier_endpoints_ejected',
      help: 'Endpoints that are out now because they failed.',
      labels: ['service'],
    }),
    rateLimited: registry.counter({
      name: 'nodemesh_requests_rate_limited_total',
      help: 'Requests refused by a rate limit.',
      labels: ['service', 'scope'],
    }),
    rateStoreFailures: registry.counter({
      name: 'nodemesh_rate_limit_store_failures_total',
      help: 'Requests for which the shared store did not answer, by what was done instead.',
      labels: ['service', 'action'],
    }),
    faults: registry.counter({
      name: 'nodemesh_faults_injected_total',
      help: 'Faults that a policy asked for.',
      labels: ['service', 'kind'],
    }),
  };
}
