/**
 * Runs one relay under the worker's eyes: registers the connection, decides once more now that it can be found
 * by a policy change, and closes its journal entries when it has ended.
 */

import { MeshError } from '../base/errors.ts';
import type { PodUid } from '../core/pod.ts';
import { decisionError } from '../policy/decide.ts';
import type { ConnectionFacts } from '../policy/match.ts';
import type { PolicyTarget } from '../policy/policy-set.ts';
import type { Workload } from '../core/workload.ts';
import type { ServedPod, WorkerContext } from './context.ts';
import type { JournalEntry } from './journal.ts';
import type { Relay, RelayResult } from './relay.ts';

export interface RunOptions {
  /** The pods of this node it belongs to; the first one counts it. */
  readonly pod: PodUid;
  /** What was decided about, for a connection into a pod of this node. */
  readonly governed:
    | {
        readonly facts: ConnectionFacts;
        readonly pod: ServedPod;
        /** As it was when the connection was admitted. */
        readonly workload: Workload;
      }
    | undefined;
  /** `own`: which end of the relay is the reporting workload. */
  readonly entries: readonly { readonly entry: JournalEntry; readonly own: 'a' | 'b' }[];
  readonly onEnd?: () => void;
}

export function runRelay<T extends Relay>(
  context: WorkerContext,
  make: (onResult: (result: RelayResult) => void) => T,
  options: RunOptions,
): T {
  const { governed, entries } = options;
  const relay = make((result) => {
    forget();
    ungovern();
    options.onEnd?.();
    for (const { entry, own } of entries) {
      entry.end({
        bytesSent: own === 'a' ? result.bytesToB : result.bytesToA,
        bytesReceived: own === 'a' ? result.bytesToA : result.bytesToB,
        flag: result.flag,
        error: result.error,
      });
    }
  });
  const close = (error: MeshError): void => relay.close(error);
  const forget = context.connections.add({ pod: options.pod, close });
  const target = (): PolicyTarget =>
    governed?.pod.workload() ?? governed?.workload ?? { namespace: '', authorizationPolicies: [] };
  const ungovern =
    governed === undefined
      ? () => {}
      : context.connections.govern({ facts: governed.facts, target, close });
  for (const { entry, own } of entries) {
    entry.opened(() => ({
      bytesSent: own === 'a' ? relay.bytesToB : relay.bytesToA,
      bytesReceived: own === 'a' ? relay.bytesToA : relay.bytesToB,
    }));
  }
  if (governed !== undefined) {
    // A policy may have changed between the first decision and the application's answer.
    const decision = context.authorizer.decide(governed.facts, target());
    if (!decision.allowed) close(decisionError(decision));
  }
  return relay;
}
