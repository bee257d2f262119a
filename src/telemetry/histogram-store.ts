/**
 * The histograms of one process. A series here is a row of counts for one label set; shown, it is a line for each
 * bucket, one for all, a sum and a count, and as that many it counts against T108.
 *
 * - Bounded: a family has a limit of label sets; what exceeds it is counted where all labels are `other`.
 * - Label sets that are idle for an hour vanish. Observing one again brings it back from 0.
 */

import type { Exposition, Sample } from './exposition.ts';
import {
  createLabelSet,
  IDLE_EXPIRY_MS,
  OTHER,
  type LabelSet,
  type SeriesStore,
} from './series-store.ts';

export interface HistogramOptions {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  /** Upper bounds, ascending, without infinity. */
  readonly bounds: readonly number[];
  /** Label sets, `other` among them. */
  readonly setsMax: number;
}

export interface Histogram {
  readonly family: HistogramFamily;
  readonly labels: LabelSet;
  /** Not cumulative; the last one is beyond every bound. */
  readonly counts: Float64Array;
  sum: number;
  touchedTick: number;
  isLive: boolean;
}

export interface HistogramFamily {
  readonly options: HistogramOptions;
  readonly histograms: Map<string, Histogram>;
  /** Every label is `other`. */
  readonly others: LabelSet;
  sweptTick: number;
}

export interface HistogramStore {
  family(options: HistogramOptions): HistogramFamily;
  /** The histogram with these labels, made when absent. */
  histogram(family: HistogramFamily, labels: LabelSet): Histogram;
  observe(histogram: Histogram, value: number): void;
  expositions(): Iterable<Exposition>;
  /** Lines that a scrape would show now. */
  readonly lineCount: number;
}

const TICK_MS = 60_000;

/** `clock`: whose ticks decide what is idle. */
export function createHistogramStore(clock: Pick<SeriesStore, 'tick'>): HistogramStore {
  const families = new Map<string, HistogramFamily>();
  const make = (family: HistogramFamily, labels: LabelSet): Histogram => {
    const histogram: Histogram = {
      family,
      labels,
      counts: new Float64Array(family.options.bounds.length + 1),
      sum: 0,
      touchedTick: clock.tick,
      isLive: true,
    };
    family.histograms.set(labels.key, histogram);
    return histogram;
  };
  const sweep = (family: HistogramFamily): void => {
    if (family.sweptTick === clock.tick) return;
    family.sweptTick = clock.tick;
    const oldest = clock.tick - IDLE_EXPIRY_MS / TICK_MS;
    for (const [key, histogram] of family.histograms) {
      if (histogram.touchedTick >= oldest) continue;
      family.histograms.delete(key);
      histogram.isLive = false;
    }
  };
  const find = (family: HistogramFamily, labels: LabelSet): Histogram => {
    const { histograms, options } = family;
    const known = histograms.get(labels.key);
    if (known !== undefined) return known;
    if (histograms.size >= options.setsMax - 1) sweep(family);
    if (histograms.size < options.setsMax - 1) return make(family, labels);
    const { others } = family;
    return histograms.get(others.key) ?? make(family, others);
  };
  return {
    get lineCount() {
      let count = 0;
      for (const { options, histograms } of families.values()) {
        count += histograms.size * linesOf(options);
      }
      return count;
    },
    family(options) {
      const known = families.get(options.name);
      if (known !== undefined) return known;
      const others = createLabelSet(
        options.labels,
        options.labels.map(() => OTHER),
      );
      const family = { options, histograms: new Map(), others, sweptTick: clock.tick };
      families.set(options.name, family);
      return family;
    },
    histogram: find,
    observe(given, value) {
      const histogram = given.isLive ? given : find(given.family, given.labels);
      const { bounds } = histogram.family.options;
      let index = 0;
      while (index < bounds.length && value > (bounds[index] ?? 0)) index++;
      histogram.counts[index] = (histogram.counts[index] ?? 0) + 1;
      histogram.sum += value;
      histogram.touchedTick = clock.tick;
    },
    *expositions() {
      for (const [name, family] of [...families].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
        sweep(family);
        yield { name, help: family.options.help, type: 'histogram', samples: samplesOf(family) };
      }
    },
  };
}

/** Lines of one label set. */
export function linesOf(options: HistogramOptions): number {
  return options.bounds.length + 3;
}

function* samplesOf(family: HistogramFamily): Generator<Sample> {
  const { name, bounds } = family.options;
  for (const { labels, counts, sum } of family.histograms.values()) {
    const start = labels.text === '' ? '{' : `${labels.text.slice(0, -1)},`;
    let total = 0;
    for (const [index, bound] of [...bounds, Infinity].entries()) {
      total += counts[index] ?? 0;
      const le = bound === Infinity ? '+Inf' : String(bound);
      yield { name: `${name}_bucket`, labelText: `${start}le="${le}"}`, value: total };
    }
    yield { name: `${name}_sum`, labelText: labels.text, value: sum };
    yield { name: `${name}_count`, labelText: labels.text, value: total };
  }
}
