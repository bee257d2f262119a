/**
 * The metric interfaces that components receive. A component declares its own metrics against `Registry` in
 * its `metrics.ts`; telemetry/ implements it. Label sets are closed: names are fixed at declaration, values
 * come from bounded sets, and the registry folds what exceeds its series limit into `other`.
 */

export interface MetricOptions {
  /** Full name, e.g. `nodemesh_config_age_seconds`; counters end in `_total`. */
  readonly name: string;
  readonly help: string;
  readonly labels?: readonly string[];
}

export interface Counter {
  /** `labels` in the order of declaration; absent means none were declared. */
  add(value: number, labels?: readonly string[]): void;
}

export interface Gauge {
  set(value: number, labels?: readonly string[]): void;
}

export interface Registry {
  counter(options: MetricOptions): Counter;
  gauge(options: MetricOptions): Gauge;
  /** A gauge read when scraped; one value without labels. */
  observedGauge(options: MetricOptions, read: () => number): void;
}

/** Counts nothing: for tests that do not look at metrics. */
export function createNullRegistry(): Registry {
  const drop = (): void => {};
  return { counter: () => ({ add: drop }), gauge: () => ({ set: drop }), observedGauge: drop };
}
