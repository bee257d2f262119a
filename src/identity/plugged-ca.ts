/**
 * The operator's authority as it is replaced while it is used: its certificates hold on every node until each of them
 * has been issued anew, as in a rotation of our own root (`self-signed-ca.ts`).
 *
 *   steady --replace--> trust --switchIssuer--> issue --retireOldRoot--> steady
 *
 * - An authority below the same roots issues at once. One that brings a root is only trusted at first, beside the old
 *   one, which goes on issuing; one that drops a root issues at once, and the dropped root stays until it is retired.
 * - Nothing of it is stored: the files are the operator's. Roots that were published before this process began and
 *   are not among the files count as not yet retired: nobody who has taken the published ones is cut off by a restart.
 *   But a process that begins with a new root issues with it at once, for the old key is gone: who has not yet heard
 *   of the root, a node that was away, trusts its certificates only then.
 * - Files that do not fit together change nothing.
 */

import { ok, type Result } from '../base/result.ts';
import { MeshError } from '../base/errors.ts';
import {
  createIssuingAuthority,
  extendAuthority,
  readPluggedCa,
  type CaDependencies,
  type CertificateAuthority,
  type IssuingState,
  type PluggedCaFiles,
} from './ca.ts';
import type { RotationPhase } from './self-signed-ca.ts';
import {
  bundlePem,
  createTrustBundle,
  trustBundlesEqual,
  type TrustBundle,
} from './trust-bundle.ts';

export interface PluggedCa extends CertificateAuthority {
  readonly phase: RotationPhase;
  /** What the operator has put in its place; false when that is nothing new. Errors as of `readPluggedCa`. */
  replace(files: PluggedCaFiles): Result<boolean>;
  /** trust → issue. Rejects with `MESH_CA_REFUSED` in any other phase, as does the next. */
  switchIssuer(): Promise<void>;
  /** issue → steady. */
  retireOldRoot(): Promise<void>;
}

export interface PluggedCaOptions extends CaDependencies {
  readonly trustDomain: string;
  readonly files: PluggedCaFiles;
  /** PEM of roots that nodes may still hold certificates of; empty: none but those of the files. */
  readonly publishedRoots: string;
}

interface State {
  /** What issues. */
  readonly current: IssuingState;
  /** What is to issue once it is trusted everywhere. */
  readonly next: IssuingState | undefined;
  /** PEM of roots beyond those of `current` and `next`. */
  readonly old: readonly string[];
  readonly bundle: TrustBundle;
}

/** Errors as of `readPluggedCa`; published roots that cannot be read are left out. */
export function createReplaceableCa(options: PluggedCaOptions): Result<PluggedCa> {
  const { trustDomain } = options;
  const first = readPluggedCa(trustDomain, options.files, 1);
  if (!first.ok) return first;
  const published = createTrustBundle(1, new Map([[trustDomain, [options.publishedRoots]]]));
  const started = stateOf(trustDomain, 1, {
    current: first.value,
    next: undefined,
    old: published.ok ? bundlePem(published.value) : [],
  });
  if (!started.ok) return started;
  let state = started.value;

  const replaceState = (parts: Omit<State, 'bundle'>): Result<void> => {
    const next = stateOf(trustDomain, state.bundle.generation + 1, parts);
    if (!next.ok) return next;
    // The generation counts changes of the roots alone.
    const { bundle } = state;
    state = trustBundlesEqual(next.value.bundle, bundle) ? { ...next.value, bundle } : next.value;
    return ok(undefined);
  };
  const step = (
    from: RotationPhase,
    next: (now: State) => Omit<State, 'bundle'>,
  ): Promise<void> => {
    if (phaseOf(state) !== from) {
      const message = `Cannot replace the authority: phase is "${phaseOf(state)}", not "${from}"`;
      return Promise.reject(new MeshError('MESH_CA_REFUSED', message));
    }
    const replaced = replaceState(next(state));
    return replaced.ok ? Promise.resolve() : Promise.reject(replaced.error);
  };
  const authority = createIssuingAuthority(trustDomain, options, () => ({
    ...state.current,
    bundle: state.bundle,
  }));
  const more: Omit<PluggedCa, keyof CertificateAuthority> = {
    get phase() {
      return phaseOf(state);
    },
    replace(files) {
      const read = readPluggedCa(trustDomain, files, 1);
      if (!read.ok) return read;
      if (isSame(read.value, state.next ?? state.current)) return ok(false);
      const known = new Set(bundlePem(state.bundle));
      const brings = bundlePem(read.value.bundle).some((root) => !known.has(root));
      // In `trust` not all nodes have what the bundle says, so whatever comes then waits as well.
      const waits = brings || state.next !== undefined;
      const replaced = replaceState(
        waits
          ? { ...state, next: read.value, old: [...known] }
          : { current: read.value, next: undefined, old: [...known] },
      );
      return replaced.ok ? ok(true) : replaced;
    },
    switchIssuer: () =>
      step('trust', (now) => ({
        current: now.next ?? now.current,
        next: undefined,
        old: bundlePem(now.bundle),
      })),
    retireOldRoot: () => step('issue', (now) => ({ ...now, old: [] })),
  };
  return ok(extendAuthority(authority, more));
}

function phaseOf({ next, old }: State): RotationPhase {
  if (next !== undefined) return 'trust';
  return old.length === 0 ? 'steady' : 'issue';
}

/** `old` keeps only what the others do not have. */
function stateOf(
  trustDomain: string,
  generation: number,
  { current, next, old }: Omit<State, 'bundle'>,
): Result<State> {
  const present = [...bundlePem(current.bundle), ...(next ? bundlePem(next.bundle) : [])];
  const kept = old.filter((root) => !present.includes(root));
  const bundle = createTrustBundle(generation, new Map([[trustDomain, [...present, ...kept]]]));
  return bundle.ok ? ok({ current, next, old: kept, bundle: bundle.value }) : bundle;
}

function isSame(a: IssuingState, b: IssuingState): boolean {
  const chain = ({ signing }: IssuingState): string => signing.chainPem.join('');
  return (
    a.issuerId === b.issuerId && trustBundlesEqual(a.bundle, b.bundle) && chain(a) === chain(b)
  );
}
