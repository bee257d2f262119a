/**
 * The registry that components declare their metrics with, over the series store. `expositions` is what a scrape
 * shows; gauges that are observed are read then.
 */

import type { Counter, Gauge, MetricOptions, Registry } from '../base/metrics.ts';
import type { Exposition, Sample } from './exposition.ts';
import type { HistogramStore } from './histogram-store.ts';
import type { Family, SeriesStore } from './series-store.ts';

export interface MetricRegistry extends Registry {
  /** Reads the observed gauges; one that throws keeps its last value. */
  observe(): void;
  /** Every family with its samples, by name. */
  expositions(): Iterable<Exposition>;
}

const NO_LABELS: readonly string[] = [];

function* samplesOf(family: Family): Generator<Sample> {
  const { name } = family.options;
  for (const { labelText, value } of family.series.values()) yield { name, labelText, value };
}

/** `histograms`: shown after the series. */
export function createRegistry(store: SeriesStore, histograms?: HistogramStore): MetricRegistry {
  const observed = new Map<string, () => void>();
  const declare = (options: MetricOptions, kind: 'counter' | 'gauge'): Family => {
    return store.family({ ...options, kind, labels: options.labels ?? NO_LABELS });
  };
  return {
    counter(options): Counter {
      const family = declare(options, 'counter');
      return {
        add(value, labels = NO_LABELS) {
          // A counter that shrinks reads as a restart; NaN would never go away.
          if (value >= 0) store.add(store.series(family, labels), value);
        },
      };
    },
    gauge(options): Gauge {
      const family = declare(options, 'gauge');
      return { set: (value, labels = NO_LABELS) => store.set(store.series(family, labels), value) };
    },
    observedGauge(options, read) {
      const family = declare(options, 'gauge');
      observed.set(options.name, () => store.set(store.series(family, NO_LABELS), read()));
    },
    observe() {
      for (const read of observed.values()) {
        try {
          read();
        } catch {
          // A metric must not take down the scrape of all others.
        }
      }
    },
    *expositions() {
      const byName = [...store.families].toSorted(([a], [b]) => (a < b ? -1 : 1));
      for (const [name, family] of byName) {
        const { help, kind } = family.options;
        yield { name, help, type: kind, samples: samplesOf(family) };
      }
      if (histograms !== undefined) yield* histograms.expositions();
    },
  };
}
