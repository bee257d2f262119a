/** What the Kubernetes source counts. */

import type { Counter, Gauge, Registry } from '../base/metrics.ts';

export interface ReflectorMetrics {
  /** By kind. */
  readonly objects: Gauge;
  /** Seconds since the API server last said anything about a kind. */
  readonly age: Gauge;
  /** By kind and reason: ended (its time was over), expired (410), dead, broken, refused, unreadable. */
  readonly restarts: Counter;
  readonly errors: Counter;
}

export function createReflectorMetrics(registry: Registry): ReflectorMetrics {
  return {
    objects: registry.gauge({
      name: 'nodemesh_watch_objects',
      help: 'Objects known of a kind',
      labels: ['kind'],
    }),
    age: registry.gauge({
      name: 'nodemesh_watch_age_seconds',
      help: 'Seconds since the API server last said anything about a kind; over 60 it is not there',
      labels: ['kind'],
    }),
    restarts: registry.counter({
      name: 'nodemesh_watch_restarts_total',
      help: 'Watches that ended, by reason',
      labels: ['kind', 'reason'],
    }),
    errors: registry.counter({
      name: 'nodemesh_watch_errors_total',
      help: 'Lists and watches that failed, and changes that could not be taken',
      labels: ['kind'],
    }),
  };
}
