/**
 * The series of one process: families (a name with its closed set of label names) and their values.
 *
 * - Bounded (T108): a family has a limit, the store has one over all of them. What exceeds either is counted in
 *   the family's series whose labels are all `other`; a value is cut at `LABEL_MAX_CHARS`.
 * - Idle series expire where the family says so; a series that is pinned does not. Adding to one that expired
 *   brings it back under a new id, from 0, as a restarted counter would.
 * - Label text is escaped once, when the series is made.
 */

import type { Clock, Timer } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';

export interface FamilyOptions {
  /** Counters end in `_total`. */
  readonly name: string;
  readonly help: string;
  readonly kind: 'counter' | 'gauge';
  readonly labels: readonly string[];
  /** Default `FAMILY_SERIES_DEFAULT`. */
  readonly seriesMax?: number;
  /** Whether series vanish after `IDLE_EXPIRY_MS` without a change. Default false. */
  readonly expires?: boolean;
}

/** Label values, made fit once for every family that has these label names. */
export interface LabelSet {
  readonly values: readonly string[];
  readonly key: string;
  /** `{name="value",…}`, or empty without labels; made when first read. */
  readonly text: string;
}

export interface Series {
  readonly family: Family;
  readonly labels: readonly string[];
  readonly labelText: string;
  /** Unique in this process, never used again. */
  id: number;
  value: number;
  /** Users that may still add, such as open connections; kept while more than 0. */
  pins: number;
  touchedTick: number;
  isLive: boolean;
}

export interface Family {
  readonly options: FamilyOptions;
  readonly series: ReadonlyMap<string, Series>;
}

export interface SeriesStore {
  readonly families: ReadonlyMap<string, Family>;
  /** Series of all families. */
  readonly seriesCount: number;
  /** Minutes since the store was made: the clock of what expires. */
  readonly tick: number;
  /**
   * Declares a family, or returns the one that is declared with this name already.
   * Throws MESH_CONFIG_INVALID for a malformed name or one declared with other labels or another kind.
   */
  family(options: FamilyOptions): Family;
  /** The series with these label values, in the order of declaration; made when absent. */
  series(family: Family, labels: readonly string[] | LabelSet): Series;
  /** For several families with the same label names, which then share the text. */
  labelSet(family: Family, values: readonly string[]): LabelSet;
  add(series: Series, value: number): void;
  set(series: Series, value: number): void;
  /** Stops the expiry timer. */
  stop(): void;
}

/** T108: a proxy has at most this many series. */
export const SERIES_MAX = 10_000;
/** Of these, for what Node's process metrics take outside the store. */
export const PROCESS_SERIES_MAX = 150;
export const FAMILY_SERIES_DEFAULT = 100;
export const LABEL_MAX_CHARS = 512;
export const OTHER = 'other';
export const IDLE_EXPIRY_MS: number = 60 * 60 * 1000;
const FAMILIES_MAX = 200;
const SWEEP_MS = 60 * 1000;
const METRIC_NAME = /^[a-z_][a-z0-9_]{0,127}$/;
const LABEL_NAME = /^[a-z_][a-z0-9_]{0,63}$/;
/** Not in any label value, which is why values with it are cleaned. */
const SEPARATOR = '\u0000';
/** Nearly all: printable ASCII. */
const PLAIN = /^[ -~]*$/;

export function escapeLabelValue(value: string): string {
  return value
    .replaceAll('\\', String.raw`\\`)
    .replaceAll('"', String.raw`\"`)
    .replaceAll('\n', String.raw`\n`);
}

/** Cut to size, valid Unicode, without NUL: what the text formats can carry. */
function cleanLabelValue(value: string): string {
  if (value.length <= LABEL_MAX_CHARS && PLAIN.test(value)) return value;
  return value.slice(0, LABEL_MAX_CHARS).replaceAll(SEPARATOR, '').toWellFormed();
}

/** Not tied to a family, for whoever keeps values of its own. */
export function createLabelSet(names: readonly string[], given: readonly string[]): LabelSet {
  const values = names.map((_, index) => cleanLabelValue(given[index] ?? ''));
  let text: string | undefined;
  return {
    values,
    key: values.join(SEPARATOR),
    get text() {
      return (text ??= formatLabels(names, values));
    },
  };
}

function formatLabels(names: readonly string[], values: readonly string[]): string {
  if (names.length === 0) return '';
  const pairs = names.map((name, index) => `${name}="${escapeLabelValue(values[index] ?? '')}"`);
  return `{${pairs.join(',')}}`;
}

function checkOptions(options: FamilyOptions): void {
  const { name, labels, kind } = options;
  const isNamed = METRIC_NAME.test(name) && labels.every((label) => LABEL_NAME.test(label));
  const isUnique = new Set(labels).size === labels.length;
  if (isNamed && isUnique && name.endsWith('_total') === (kind === 'counter')) return;
  throw new MeshError(
    'MESH_CONFIG_INVALID',
    `Cannot declare the ${kind} "${name}": malformed name`,
  );
}

class FamilyState implements Family {
  readonly options: FamilyOptions;
  readonly series = new Map<string, Series>();
  other: Series | undefined;

  constructor(options: FamilyOptions) {
    this.options = options;
  }
}

export function createSeriesStore(
  clock: Clock,
  seriesMax: number = SERIES_MAX - PROCESS_SERIES_MAX,
): SeriesStore {
  const families = new Map<string, FamilyState>();
  let seriesCount = 0;
  let nextId = 1;
  let tick = 0;

  const make = (family: FamilyState, set: LabelSet): Series => {
    const series: Series = {
      family,
      labels: set.values,
      labelText: set.text,
      id: nextId++,
      value: 0,
      pins: 0,
      touchedTick: tick,
      isLive: true,
    };
    family.series.set(set.key, series);
    seriesCount++;
    return series;
  };
  const find = (family: FamilyState, given: readonly string[] | LabelSet): Series => {
    const names = family.options.labels;
    const set = 'key' in given ? given : createLabelSet(names, given);
    const known = family.series.get(set.key);
    if (known !== undefined) return known;
    // One place in each family is kept for `other`.
    const familyMax = family.options.seriesMax ?? FAMILY_SERIES_DEFAULT;
    const isFull = family.series.size >= familyMax - 1 || seriesCount >= seriesMax - FAMILIES_MAX;
    if (!isFull || names.length === 0) return make(family, set);
    if (family.other === undefined) {
      const others = createLabelSet(
        names,
        names.map(() => OTHER),
      );
      family.other = family.series.get(others.key) ?? make(family, others);
    }
    return family.other;
  };
  const expire = (family: FamilyState, key: string, series: Series): void => {
    family.series.delete(key);
    seriesCount--;
    series.isLive = false;
    if (family.other === series) family.other = undefined;
  };
  const live = (series: Series): Series => {
    return series.isLive ? series : find(series.family as FamilyState, series.labels);
  };
  const sweep = (): void => {
    tick++;
    const oldest = tick - IDLE_EXPIRY_MS / SWEEP_MS;
    for (const family of families.values()) {
      if (family.options.expires !== true) continue;
      for (const [key, series] of family.series) {
        if (series.pins <= 0 && series.touchedTick < oldest) expire(family, key, series);
      }
    }
  };
  const sweeper: Timer = clock.every(SWEEP_MS, sweep);

  return {
    families,
    get seriesCount() {
      return seriesCount;
    },
    get tick() {
      return tick;
    },
    family(options) {
      const known = families.get(options.name);
      if (known === undefined) {
        checkOptions(options);
        if (families.size >= FAMILIES_MAX) {
          const message = `Cannot declare "${options.name}": more than ${FAMILIES_MAX} families`;
          throw new MeshError('MESH_LIMIT_EXCEEDED', message);
        }
        const family = new FamilyState(options);
        families.set(options.name, family);
        return family;
      }
      const { kind, labels } = known.options;
      if (kind !== options.kind || labels.join() !== options.labels.join()) {
        const message = `Cannot declare "${options.name}" again with another kind or other labels`;
        throw new MeshError('MESH_CONFIG_INVALID', message);
      }
      return known;
    },
    series: (family, labels) => find(family as FamilyState, labels),
    labelSet: (family, values) => createLabelSet(family.options.labels, values),
    add(series, value) {
      const target = live(series);
      target.value += value;
      target.touchedTick = tick;
    },
    set(series, value) {
      const target = live(series);
      target.value = value;
      target.touchedTick = tick;
    },
    stop: () => sweeper.cancel(),
  };
}
