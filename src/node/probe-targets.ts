/**
 * Keeps the node's rules for kubelet probes in step with what is captured: every captured pod's addresses and
 * declared probe ports, and nothing else. A failure is logged and tried again; until then probes of STRICT pods
 * fail and nothing else does. The rules stay when the agent goes, as the pods' own rules do.
 */

import { createBackoff } from '../base/backoff.ts';
import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import type { CapturedPod } from '../core/pod.ts';
import { PROBE_TARGETS_MAX, type ProbeRules, type ProbeTarget } from '../redirect/probes.ts';

/** Rules that somebody flushed are back after this. */
const REAPPLY_MS = 30_000;
const RETRY = { initialMs: 200, maxMs: 10_000 } as const;

export interface ProbeTargets {
  /** What is captured now; complete. */
  set(captured: readonly CapturedPod[]): void;
  /** Touches the rules no more: a successor keeps them. Idempotent. */
  stop(): void;
}

export function createProbeTargets(
  clock: Clock,
  random: Random,
  logger: Logger,
  rules: Pick<ProbeRules, 'apply'>,
): ProbeTargets {
  const backoff = createBackoff(random, RETRY);
  let wanted: readonly ProbeTarget[] = [];
  let wantedText = '';
  /** What was applied last; undefined when nothing was, or it failed. */
  let appliedText: string | undefined;
  let applying = false;
  let stopped = false;
  let retry: Timer | undefined;

  const apply = (): void => {
    if (applying || stopped) return;
    applying = true;
    retry?.cancel();
    retry = undefined;
    const text = wantedText;
    void rules
      .apply(wanted)
      .then(
        () => {
          appliedText = text;
          backoff.reset();
        },
        (error: unknown) => {
          appliedText = undefined;
          logger.error('cannot let kubelet probes through; trying again', { error });
          retry = clock.after(backoff.nextMs(), apply);
        },
      )
      .finally(() => {
        applying = false;
        if (appliedText !== undefined && appliedText !== wantedText) apply();
      });
  };

  const reapply = clock.every(REAPPLY_MS, () => {
    if (appliedText !== undefined) apply();
  });

  return {
    set(captured) {
      const targets = captured.flatMap(({ pod }) =>
        pod.addresses.flatMap((ip) => pod.probePorts.map((port) => ({ ip, port }))),
      );
      if (targets.length > PROBE_TARGETS_MAX) {
        logger.error('some probes will fail under STRICT: too many', { targets: targets.length });
      }
      wanted = targets.slice(0, PROBE_TARGETS_MAX);
      wantedText = wanted.map(({ ip, port }) => `${ip} ${port}`).join();
      // The first time also with nothing: an earlier agent's targets may still stand.
      if (wantedText !== appliedText && retry === undefined) apply();
    },
    stop() {
      stopped = true;
      retry?.cancel();
      reapply.cancel();
    },
  };
}
