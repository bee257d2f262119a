/**
 * Waits until connected nodes have taken what was published: what enrolment, policies and root rotation
 * go on by. Every wait ends, at the latest after its limit: a node that is stuck must not hold the others.
 *
 * A node's agent acknowledges what it stored; its workers take it a moment later, so a margin follows.
 */

import type { Clock, Timer } from '../base/clock.ts';

/** Something published: everything of one type up to a generation of its cache. */
export interface PublishedUpTo {
  readonly typeUrl: string;
  readonly generation: number;
}

/** Nodes connected now that subscribe to the type and have not acknowledged that much. */
export type NodesBehind = (published: PublishedUpTo) => Iterable<string>;

export interface WaitOptions {
  readonly published: PublishedUpTo;
  /** Only this node; undefined: all. */
  readonly node: string | undefined;
  readonly limitMs: number;
  readonly done: (acknowledged: boolean) => void;
}

export interface Acknowledgements extends Disposable {
  wait(options: WaitOptions): void;
  readonly waitingCount: number;
}

export interface AcknowledgementsOptions {
  readonly clock: Clock;
  /** Undefined when nobody can tell: every wait then takes `blindMs`. */
  readonly behind: NodesBehind | undefined;
  /** Default 1,000. */
  readonly blindMs?: number | undefined;
  /** Default 250. */
  readonly marginMs?: number | undefined;
}

const BLIND_DEFAULT_MS = 1_000;
const MARGIN_DEFAULT_MS = 250;
const LOOK_PERIOD_MS = 20;

interface Wait extends WaitOptions {
  readonly deadlineMs: number;
  /** When the margin ends; undefined while somebody is behind. */
  settleMs: number | undefined;
}

export function createAcknowledgements(options: AcknowledgementsOptions): Acknowledgements {
  const { clock, behind, blindMs = BLIND_DEFAULT_MS, marginMs = MARGIN_DEFAULT_MS } = options;
  const waits = new Set<Wait>();
  let timer: Timer | undefined;

  const isBehind = (wait: Wait, known: Map<string, ReadonlySet<string>>): boolean => {
    if (behind === undefined) return false;
    const { typeUrl, generation } = wait.published;
    // Many pods wait for one publication: whoever is behind is asked for once.
    const key = `${generation} ${typeUrl}`;
    let nodes = known.get(key);
    if (nodes === undefined) known.set(key, (nodes = new Set(behind(wait.published))));
    return wait.node === undefined ? nodes.size > 0 : nodes.has(wait.node);
  };

  const look = (): void => {
    const nowMs = clock.nowMs();
    const known = new Map<string, ReadonlySet<string>>();
    for (const wait of waits) {
      if (wait.settleMs === undefined && !isBehind(wait, known)) wait.settleMs = nowMs + marginMs;
      const settled = wait.settleMs !== undefined && nowMs >= wait.settleMs;
      if (!settled && nowMs < wait.deadlineMs) continue;
      waits.delete(wait);
      wait.done(settled);
    }
    if (waits.size > 0) return;
    timer?.cancel();
    timer = undefined;
  };

  return {
    get waitingCount() {
      return waits.size;
    },
    wait(wait) {
      const nowMs = clock.nowMs();
      const settleMs = behind === undefined ? nowMs + blindMs : undefined;
      waits.add({ ...wait, deadlineMs: nowMs + wait.limitMs + marginMs, settleMs });
      timer ??= clock.every(LOOK_PERIOD_MS, look);
    },
    [Symbol.dispose]() {
      timer?.cancel();
      timer = undefined;
      waits.clear();
    },
  };
}
