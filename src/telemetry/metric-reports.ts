/**
 * What a worker tells the agent about its metrics. Values are totals since the worker began, not differences: a
 * report that is lost, sent twice or overtaken changes nothing in the end, and a restarted agent recovers the
 * totals of the workers that live.
 *
 * - A report holds what changed since the one before, and a few series that did not, so that an agent that forgot
 *   hears of everything again in time.
 * - A report that was not taken makes everything be told again, and so does a new stream: an agent that was killed and
 *   replaced between two reports has lost what it had not saved, and one that missed the worker has dropped its gauges.
 */

import type { Series, SeriesStore } from './series-store.ts';

/** One life of one worker; has the shape of the discovery message that carries it. */
export interface MetricReport {
  /** Names one life of one worker: no successor may have the same. */
  readonly worker: string;
  /** Grows from report to report. */
  readonly sequence: number;
  readonly counters: readonly {
    readonly metric: string;
    readonly labels: readonly string[];
    readonly value: number;
  }[];
}

export interface MetricReports {
  /**
   * Hands the next report to `send`, which resolves to whether the agent has taken it; does nothing while one is
   * under way. `stream` is another number once the agent is reached by another stream. Never rejects.
   */
  deliver(send: (report: MetricReport) => Promise<boolean>, stream: number): Promise<void>;
}

/** Keeps one report near 500 KB. */
const REPORT_SERIES_MAX = 500;
const REFRESH_SERIES = 20;

export function createMetricReports(store: SeriesStore, worker: string): MetricReports {
  /** What the agent was told of each series that lives; by id, for a series that came back has a new one. */
  let told = new Map<number, number>();
  let sequence = 0;
  let refreshAfterId = 0;
  let isBusy = false;
  let toldOn = 0;

  const choose = (): Series[] => {
    const changed: Series[] = [];
    const same: Series[] = [];
    for (const family of store.families.values()) {
      for (const series of family.series.values()) {
        if (told.get(series.id) !== series.value) changed.push(series);
        else same.push(series);
        if (changed.length >= REPORT_SERIES_MAX) return changed;
      }
    }
    const next = same.filter((series) => series.id > refreshAfterId).slice(0, REFRESH_SERIES);
    refreshAfterId = next.length < REFRESH_SERIES ? 0 : (next.at(-1)?.id ?? 0);
    return [...changed, ...next];
  };
  const forgetExpired = (): void => {
    if (told.size <= store.seriesCount * 2) return;
    const live = new Map<number, number>();
    for (const family of store.families.values()) {
      for (const { id } of family.series.values()) {
        const value = told.get(id);
        if (value !== undefined) live.set(id, value);
      }
    }
    told = live;
  };
  return {
    async deliver(send, stream) {
      if (isBusy) return;
      isBusy = true;
      if (stream !== toldOn) told.clear();
      toldOn = stream;
      const chosen = choose().map((series) => ({ series, value: series.value }));
      const counters = chosen.map(({ series, value }) => {
        return { metric: series.family.options.name, labels: series.labels, value };
      });
      try {
        const isTaken = await send({ worker, sequence: ++sequence, counters });
        if (!isTaken) told.clear();
        else for (const { series, value } of chosen) told.set(series.id, value);
      } catch {
        told.clear();
      } finally {
        isBusy = false;
      }
      forgetExpired();
    },
  };
}
