/**
 * Replaces the root with no failed connection: trust → issue → retire.
 *
 *   trust   the new root is in every node's bundle beside the old one; waits until the nodes acknowledged it
 *   issue   certificates come from the new root, and the bundle says so, so agents renew at once; waits until
 *           every certificate of the old root has been replaced or has expired
 *   retire  the old root leaves the bundles
 *
 * The CA keeps the phase; after a restart the rotation goes on where it was. Asked for by raising
 * `MeshConfig.spec.rootRotation`, which says how often the root is to have been rotated, or by a command; an
 * operator's authority begins by itself, when it is replaced.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { SelfSignedCa } from '../identity/self-signed-ca.ts';
import type { Holder } from './leaf-ledger.ts';

export interface RootRotationOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly ca: Pick<
    SelfSignedCa,
    'bundle' | 'issuerId' | 'phase' | 'switchIssuer' | 'retireOldRoot'
  > &
    Partial<Pick<SelfSignedCa, 'beginRotation'>>;
  /** Only one of several controllers rotates. Default: this one. */
  readonly active?: (() => boolean) | undefined;
  /** Publishes the CA's bundle and issuer as they are now. */
  readonly publishBundle: () => void;
  /** Whether every connected node has taken the published bundle; called until it says yes. */
  readonly bundleTaken: () => boolean;
  /** Nodes with enrolled pods that are not connected, and so cannot be known to trust the new root. */
  readonly absentNodes: () => readonly string[];
  /** Who may still use a certificate of another issuer. */
  readonly outdated: () => readonly Holder[];
  /** How long absent nodes are waited for before the new root issues. Default one hour. */
  readonly absentNodeWaitMs?: number | undefined;
  /**
   * Between the last acknowledgement and the next step: workers follow their agent. Default 1,000, and 3,000 before
   * the old root goes: what counts is that a certificate was signed, and a node that did not get the answer asks again
   * after a second.
   */
  readonly marginMs?: number | undefined;
}

export interface RootRotation extends Disposable {
  readonly phase: 'steady' | 'trust' | 'issue';
  /** Rotations begun in the CA's life. */
  readonly count: number;
  /** Begins one rotation, or does nothing while one runs. */
  rotate(): void;
  /** Rotates until `count` has reached `wanted`. */
  setWanted(wanted: number): void;
}

const LOOK_PERIOD_MS = 100;
/** A step that failed (the state could not be stored) is tried again after so long. */
const RETRY_MS = 5_000;
const ABSENT_WAIT_DEFAULT_MS = 3_600_000;
const MARGIN_DEFAULT_MS = 1_000;
const RETIRE_MARGIN_DEFAULT_MS = 3_000;
/** Said again so often while a rotation waits. */
const WAITING_LOG_PERIOD_MS = 60_000;

export function createRootRotation(options: RootRotationOptions): RootRotation {
  const { clock, logger, ca } = options;
  const { absentNodeWaitMs = ABSENT_WAIT_DEFAULT_MS, marginMs = MARGIN_DEFAULT_MS } = options;
  const retireMarginMs = options.marginMs ?? RETIRE_MARGIN_DEFAULT_MS;
  let wanted = 0;
  let stepping = false;
  let phaseSinceMs = clock.nowMs();
  let seen = '';
  /** When the present phase's condition was first met. */
  let readySinceMs: number | undefined;
  let nextTryMs = 0;
  let loggedMs = -Infinity;

  // The CA raises the generation once for the second root and once for dropping the first.
  const countOf = (): number => Math.floor(ca.bundle.generation / 2);

  const step = async (name: string, act: () => Promise<void>): Promise<void> => {
    stepping = true;
    try {
      await act();
      options.publishBundle();
      logger.info('Root rotation goes on', { step: name, rotations: countOf() });
    } catch (error) {
      nextTryMs = clock.nowMs() + RETRY_MS;
      logger.error('Root rotation cannot go on; trying again', { step: name, error });
    } finally {
      stepping = false;
    }
  };

  const waiting = (reason: string): boolean => {
    readySinceMs = undefined;
    if (clock.nowMs() - loggedMs >= WAITING_LOG_PERIOD_MS) {
      loggedMs = clock.nowMs();
      logger.info('Root rotation waits', { phase: ca.phase, reason });
    }
    return false;
  };

  const trusted = (): boolean => {
    if (!options.bundleTaken()) return waiting('nodes have not acknowledged the new root');
    const absent = options.absentNodes();
    if (absent.length > 0 && clock.nowMs() - phaseSinceMs < absentNodeWaitMs) {
      return waiting(`${absent.length} nodes are not connected, among them "${absent[0]}"`);
    }
    return true;
  };

  const renewed = (): boolean => {
    if (!options.bundleTaken()) return waiting('nodes have not acknowledged the new issuer');
    const [first] = options.outdated();
    if (first === undefined) return true;
    return waiting(
      `"${first.identity}" on node "${first.node}" has no certificate of the new root`,
    );
  };

  const settled = (met: boolean, afterMs: number): boolean => {
    if (!met) return false;
    readySinceMs ??= clock.nowMs();
    return clock.nowMs() - readySinceMs >= afterMs;
  };

  const look = (): void => {
    if (stepping || clock.nowMs() < nextTryMs || options.active?.() === false) return;
    // Not only our own steps lead from one phase to the next.
    const now = `${ca.phase} ${ca.bundle.generation}`;
    if (now !== seen) {
      phaseSinceMs = clock.nowMs();
      readySinceMs = undefined;
    }
    seen = now;
    switch (ca.phase) {
      case 'steady':
        if (ca.beginRotation === undefined || countOf() >= wanted) return;
        void step('trust', ca.beginRotation.bind(ca));
        return;
      case 'trust':
        if (settled(trusted(), marginMs)) void step('issue', () => ca.switchIssuer());
        return;
      case 'issue':
        if (settled(renewed(), retireMarginMs)) void step('retire', () => ca.retireOldRoot());
    }
  };

  const timer: Timer = clock.every(LOOK_PERIOD_MS, look);
  return {
    get phase() {
      return ca.phase;
    },
    get count() {
      return countOf();
    },
    rotate() {
      if (ca.phase === 'steady') wanted = countOf() + 1;
      look();
    },
    setWanted(count) {
      wanted = count;
      look();
    },
    [Symbol.dispose]: () => timer.cancel(),
  };
}
