/**
 * The agent's side of the workers' metrics: sums over workers that survive each of them and, through a saved copy,
 * the agent too.
 *
 * - Each worker tells totals since it began; what was known of it before is subtracted and the difference added to
 *   the sum. Hence nothing is counted twice, and what a dead worker counted stays.
 * - Gauges are sums over the workers that live. `forget` takes the share of one away that is dead or cut off; one that
 *   comes back counts on, one that does not is taken for dead after `GONE_MINUTES`, and the connections that were open
 *   in it are counted as closed.
 * - A report is checked like any other message: unknown metrics and wrong labels are left out and counted.
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { MetricReport } from './metric-reports.ts';
import type { FamilyOptions, Series, SeriesStore } from './series-store.ts';
import { countLostConnections } from './traffic-metrics.ts';

export interface WorkerTotals {
  /** Returns how many entries were left out because they make no sense. */
  apply(report: MetricReport): number;
  /** The worker died or lost its stream: its gauges go, its counts stay. Idempotent. */
  forget(worker: string): void;
  /** JSON of everything that `restore` needs. */
  save(): string;
  /** Takes what `save` wrote; for a store that has counted nothing yet. Takes all of it or nothing. */
  restore(text: string): Result<void>;
}

/** Lives whose share is remembered; the one that was heard longest ago makes room. */
const LIVES_MAX = 64;
/** A worker reconnects within seconds; the store's ticks are minutes. */
const GONE_MINUTES = 2;
/** Series remembered of one life. */
const LIFE_SERIES_MAX = 20_000;
const NAME_MAX_CHARS = 200;
const SAVED_FORMAT = 1;
const SEPARATOR = '\u0000';
/** Differences of floats leave dust, which gauges would show. */
const GAUGE_PRECISION = 1e9;

/** What one life has counted of one series, as told last. */
interface Share {
  readonly metric: string;
  readonly labels: readonly string[];
  series: Series;
  value: number;
}

interface Life {
  sequence: number;
  /** Since when nothing is heard of it; undefined while it lives. */
  goneTick: number | undefined;
  /** Its lost connections were counted. */
  isSettled: boolean;
  readonly shares: Map<string, Share>;
}

/** Rows are indexes into `series` with a value. */
interface Saved {
  readonly format: typeof SAVED_FORMAT;
  /** Metric, then label values. */
  readonly series: readonly (readonly string[])[];
  readonly sums: readonly (readonly [number, number])[];
  readonly lives: readonly (readonly [string, number, readonly (readonly [number, number])[]])[];
}

const isAmount = (value: unknown): value is number => Number.isFinite(value) && Number(value) >= 0;
const isText = (value: unknown): value is string => typeof value === 'string';

export function createWorkerTotals(
  store: SeriesStore,
  options: readonly FamilyOptions[],
): WorkerTotals {
  const families = new Map(options.map((option) => [option.name, store.family(option)]));
  const lives = new Map<string, Life>();

  /** Shares stay known, so that a worker that was only cut off is not counted twice. */
  const forget = (worker: string): void => {
    const life = lives.get(worker);
    if (life === undefined || life.goneTick !== undefined) return;
    life.goneTick = store.tick;
    for (const share of life.shares.values()) {
      if (share.series.family.options.kind !== 'gauge') continue;
      addToGauge(share.series, -share.value);
      share.value = 0;
    }
  };
  const settle = (life: Life): void => {
    if (life.isSettled) return;
    life.isSettled = true;
    for (const { metric, labels, value } of countLostConnections(life.shares.values())) {
      const family = families.get(metric);
      if (family !== undefined) store.add(store.series(family, labels), value);
    }
  };
  const settleGone = (): void => {
    for (const life of lives.values()) {
      if (life.goneTick !== undefined && store.tick - life.goneTick >= GONE_MINUTES) settle(life);
    }
  };
  const addToGauge = (series: Series, difference: number): void => {
    const sum = Math.round((series.value + difference) * GAUGE_PRECISION) / GAUGE_PRECISION;
    store.set(series, sum);
  };
  const lifeOf = (worker: string): Life => {
    const shares = new Map<string, Share>();
    const made = { sequence: 0, goneTick: undefined, isSettled: false, shares };
    const life: Life = lives.get(worker) ?? made;
    // The order of the map is the order in which they were heard last.
    lives.delete(worker);
    lives.set(worker, life);
    for (const [oldest, old] of lives) {
      if (lives.size <= LIVES_MAX) break;
      forget(oldest);
      settle(old);
      lives.delete(oldest);
    }
    return life;
  };
  const makeRoom = ({ shares }: Life): boolean => {
    if (shares.size < LIFE_SERIES_MAX) return true;
    for (const [key, { series }] of shares) if (!series.isLive) shares.delete(key);
    return shares.size < LIFE_SERIES_MAX;
  };
  /** The share of a series, found or made at 0; undefined for what is not declared or beyond the bound. */
  const shareOf = (life: Life, metric: string, labels: readonly string[]): Share | undefined => {
    const family = families.get(metric);
    if (family === undefined || labels.length !== family.options.labels.length) return undefined;
    const key = [metric, ...labels].join(SEPARATOR);
    let share = life.shares.get(key);
    if (share === undefined) {
      if (!makeRoom(life)) return undefined;
      share = { metric, labels, series: store.series(family, labels), value: 0 };
      life.shares.set(key, share);
    }
    if (!share.series.isLive) share.series = store.series(family, labels);
    return share;
  };
  const applyOne = (share: Share, value: number): void => {
    if (share.series.family.options.kind === 'gauge') {
      addToGauge(share.series, value - share.value);
    } else {
      // Reports come in order, so less than before means that the worker's series expired and came back.
      const before = value < share.value ? 0 : share.value;
      store.add(share.series, value - before);
    }
    share.value = value;
  };

  const save = (): string => {
    settleGone();
    const table = new Map<string, number>();
    const series: (readonly string[])[] = [];
    const indexOf = (metric: string, labels: readonly string[]): number => {
      const key = [metric, ...labels].join(SEPARATOR);
      let index = table.get(key);
      if (index === undefined) {
        index = series.push([metric, ...labels]) - 1;
        table.set(key, index);
      }
      return index;
    };
    const counters = [...families.values()].filter((family) => family.options.kind === 'counter');
    const sums = counters.flatMap((family) => {
      return [...family.series.values()].map(
        ({ labels, value }) => [indexOf(family.options.name, labels), value] as const,
      );
    });
    const saved: Saved = {
      format: SAVED_FORMAT,
      series,
      sums,
      lives: [...lives].map(([worker, { sequence, shares }]) => {
        const counted = [...shares.values()].filter(
          (share) => share.series.family.options.kind === 'counter',
        );
        const rows = counted.map(
          (share) => [indexOf(share.metric, share.labels), share.value] as const,
        );
        return [worker, sequence, rows] as const;
      }),
    };
    return JSON.stringify(saved);
  };

  return {
    apply({ worker, sequence, counters }) {
      if (worker === '' || worker.length > NAME_MAX_CHARS) return counters.length;
      const life = lifeOf(worker);
      if (sequence <= life.sequence) return 0;
      life.sequence = sequence;
      life.goneTick = undefined;
      settleGone();
      let leftOut = 0;
      for (const { metric, labels, value } of counters) {
        const share = isAmount(value) ? shareOf(life, metric, labels) : undefined;
        if (share === undefined) leftOut++;
        else applyOne(share, value);
      }
      return leftOut;
    },
    forget,
    save,
    restore(text) {
      const saved = parseSaved(text);
      if (!saved.ok) return saved;
      const { series, sums, lives: savedLives } = saved.value;
      for (const [index, value] of sums) {
        const [metric = '', ...labels] = series[index] ?? [];
        const family = families.get(metric);
        // A version before or after this one may have had other metrics.
        if (family === undefined || labels.length !== family.options.labels.length) continue;
        store.add(store.series(family, labels), value);
      }
      for (const [worker, sequence, rows] of savedLives) {
        const life = lifeOf(worker);
        life.sequence = sequence;
        // It may have died while nobody listened.
        life.goneTick = store.tick;
        for (const [index, value] of rows) {
          const [metric = '', ...labels] = series[index] ?? [];
          const share = shareOf(life, metric, labels);
          if (share !== undefined) share.value = value;
        }
      }
      return ok(undefined);
    },
  };
}

function parseSaved(text: string): Result<Saved> {
  const invalid = (reason: string): Result<never> => {
    return fail(new MeshError('MESH_CONFIG_INVALID', `Cannot read saved metrics: ${reason}`));
  };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return invalid('not JSON');
  }
  if (typeof value !== 'object' || value === null) return invalid('not an object');
  const { format, series, sums, lives } = value as Partial<Record<keyof Saved, unknown>>;
  if (format !== SAVED_FORMAT) return invalid('unknown format');
  const isSeries = (row: unknown): boolean => Array.isArray(row) && row.every(isText);
  if (!Array.isArray(series) || !series.every(isSeries)) return invalid('series are malformed');
  const isRow = (row: unknown): boolean => {
    if (!Array.isArray(row) || row.length !== 2 || !row.every(isAmount)) return false;
    return Number.isInteger(row[0]) && Number(row[0]) < series.length;
  };
  if (!Array.isArray(sums) || !sums.every(isRow)) return invalid('sums are malformed');
  const isLife = (life: unknown): boolean => {
    if (!Array.isArray(life) || life.length !== 3) return false;
    const [worker, sequence, rows] = life as unknown[];
    if (!isText(worker) || worker === '' || worker.length > NAME_MAX_CHARS) return false;
    return Number.isSafeInteger(sequence) && Array.isArray(rows) && rows.every(isRow);
  };
  if (!Array.isArray(lives) || lives.length > LIVES_MAX || !lives.every(isLife)) {
    return invalid('lives are malformed');
  }
  return ok(value as Saved);
}
