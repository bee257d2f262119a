/**
 * The CA that makes its own root: a root whose key signs nothing but intermediates, and an intermediate that
 * issues. Its state survives restarts; a root is replaced in three steps, each a call by the controller:
 *
 *   steady --beginRotation--> trust --switchIssuer--> issue --retireOldRoot--> steady
 *
 * - `trust`: the new root is published beside the old one, which still issues. Go on when every node has
 *   acknowledged the bundle.
 * - `issue`: the new one issues, both are trusted. Go on when every certificate in use has been issued anew.
 * - The generation of the bundle starts at 1 and grows in `trust` and in `steady`, so half of it counts rotations.
 * - A step is stored before it takes effect, as one replacement, so a restart finds it done or not begun.
 * - No root is ever invented where one has been: state without its keys, keys without their state, or a caller
 *   who knows of identities (`mustExist`) end in `MESH_CA_KEY_MISSING` (T132).
 */

import { MeshError } from '../base/errors.ts';
import { unwrap } from '../base/result.ts';
import {
  type CaDependencies,
  type CertificateAuthority,
  createIssuingAuthority,
  extendAuthority,
  readPrivateKey,
} from './ca.ts';
import { issuerOf, type SigningCertificate } from './ca-issuer.ts';
import { CA_STATE_FILE, type CaStorage } from './ca-storage.ts';
import { buildIntermediate, buildRoot, NOT_BEFORE_BACKDATE_MS } from './certificate.ts';
import { createKeyPair, privateKeyPem } from './keys.ts';
import { parseOnePem } from './pem.ts';
import { createTrustBundle, readRoot, type TrustBundle } from './trust-bundle.ts';

export const ROOT_LIFE_MS: number = 10 * 365 * 24 * 3600 * 1000;
export const INTERMEDIATE_LIFE_MS: number = 365 * 24 * 3600 * 1000;

export type RotationPhase = 'steady' | 'trust' | 'issue';

export interface SelfSignedCa extends CertificateAuthority {
  readonly phase: RotationPhase;
  /** When the root that issues now expires. */
  readonly rootNotAfterMs: number;
  /** steady → trust. Rejects with `MESH_CA_REFUSED` in any other phase, as do the next two. */
  beginRotation(): Promise<void>;
  /** trust → issue. */
  switchIssuer(): Promise<void>;
  /** issue → steady. The old root's key is deleted. */
  retireOldRoot(): Promise<void>;
  /** Replaces the intermediate when half of its life is over. To be called every hour or so. */
  maintain(): Promise<void>;
  /** Takes what another controller has stored; true when that is something new. */
  refresh(): Promise<boolean>;
}

export interface SelfSignedCaOptions extends CaDependencies {
  readonly trustDomain: string;
  readonly storage: CaStorage;
  /** Certificates of this trust domain are known to exist, so a root must be there. */
  readonly mustExist: boolean;
}

/**
 * Opens the CA in `storage`, or makes a new one where there has never been any. Rejects with
 * `MESH_CA_KEY_MISSING` or, for a state that is damaged or another trust domain's, `MESH_CONFIG_INVALID`.
 */
export async function openSelfSignedCa(options: SelfSignedCaOptions): Promise<SelfSignedCa> {
  const files = await options.storage.read();
  const stored = files.get(CA_STATE_FILE);
  if (stored !== undefined) return createAuthority(options, loadState(options, files, stored));
  if (options.mustExist) {
    throw keyMissing('identities exist but no CA is stored; restore the backup of its state');
  }
  if (files.size > 0) {
    throw keyMissing(
      `keys are stored without "${CA_STATE_FILE}"; restore it from a backup, or remove the keys if ` +
        'this was the very first start and it was interrupted',
    );
  }
  const state = newState(options);
  await options.storage.write(toFiles(options.trustDomain, state));
  return createAuthority(options, state);
}

interface State {
  readonly generation: number;
  /** One, or during a rotation the old and the new. */
  readonly roots: readonly SigningCertificate[];
  /** Signed by the last root in phase `issue`, else by the first. */
  readonly intermediate: SigningCertificate;
  readonly phase: RotationPhase;
  readonly bundle: TrustBundle;
}

function createAuthority(options: SelfSignedCaOptions, initial: State): SelfSignedCa {
  const { trustDomain, storage, clock } = options;
  let state = initial;
  let stored = storedText(trustDomain, state);
  let previous: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(run: () => Promise<T>): Promise<T> => {
    const result = previous.then(run);
    previous = result.catch(() => {});
    return result;
  };
  const reload = async (): Promise<boolean> => {
    const files = await storage.read();
    const text = files.get(CA_STATE_FILE);
    if (text === undefined) throw keyMissing('its stored state is gone; restore it from a backup');
    if (text === stored) return false;
    state = loadState(options, files, text);
    stored = text;
    return true;
  };
  /** One change at a time, stored before it is used. */
  const change = (next: (now: State) => State | undefined): Promise<void> =>
    inTurn(async () => {
      const changed = next(state);
      if (changed === undefined) return;
      try {
        await storage.write(toFiles(trustDomain, changed));
      } catch (error) {
        // Perhaps another controller was faster; its step is not to be taken again.
        await reload().catch(() => {});
        throw error;
      }
      state = changed;
      stored = storedText(trustDomain, state);
    });
  const step = (from: RotationPhase, next: (now: State) => State): Promise<void> =>
    change((now) => {
      if (now.phase === from) return next(now);
      const message = `Cannot rotate the root: phase is "${now.phase}", not "${from}"`;
      throw new MeshError('MESH_CA_REFUSED', message);
    });
  const authority = createIssuingAuthority(trustDomain, options, () => ({
    bundle: state.bundle,
    issuerId: issuingRoot(state).certificate.fingerprint,
    signing: state.intermediate,
  }));
  const more: Omit<SelfSignedCa, keyof CertificateAuthority> = {
    get phase() {
      return state.phase;
    },
    get rootNotAfterMs() {
      return issuingRoot(state).certificate.fields.notAfterMs;
    },
    beginRotation: () =>
      step('steady', (now) => {
        const roots = [...now.roots, newRoot(options)];
        return withBundle(trustDomain, { ...now, roots, phase: 'trust' }, now.generation + 1);
      }),
    switchIssuer: () =>
      step('trust', (now) => {
        const issuing: State = { ...now, phase: 'issue' };
        return { ...issuing, intermediate: newIntermediate(options, issuingRoot(issuing)) };
      }),
    retireOldRoot: () =>
      step('issue', (now) => {
        const roots = [issuingRoot(now)];
        return withBundle(trustDomain, { ...now, roots, phase: 'steady' }, now.generation + 1);
      }),
    maintain: () =>
      change((now) => {
        const { notBeforeMs, notAfterMs } = now.intermediate.certificate.fields;
        if (clock.wallMs() < (notBeforeMs + notAfterMs) / 2) return undefined;
        return { ...now, intermediate: newIntermediate(options, issuingRoot(now)) };
      }),
    refresh: () => inTurn(reload),
  };
  return extendAuthority(authority, more);
}

function issuingRoot(state: Pick<State, 'roots' | 'phase'>): SigningCertificate {
  const root = state.phase === 'issue' ? state.roots[1] : state.roots[0];
  if (root === undefined) throw damaged('no root issues');
  return root;
}

function newState(options: SelfSignedCaOptions): State {
  const root = newRoot(options);
  const intermediate = newIntermediate(options, root);
  return withBundle(options.trustDomain, { roots: [root], intermediate, phase: 'steady' }, 1);
}

function withBundle(
  trustDomain: string,
  state: Pick<State, 'roots' | 'intermediate' | 'phase'>,
  generation: number,
): State {
  const pems = state.roots.map(({ certificate }) => certificate.pem);
  const bundle = unwrap(createTrustBundle(generation, new Map([[trustDomain, pems]])));
  return { ...state, generation, bundle };
}

function newRoot({ trustDomain, clock, random }: SelfSignedCaOptions): SigningCertificate {
  const keys = createKeyPair();
  const validity = validityFrom(clock.wallMs(), ROOT_LIFE_MS);
  const name = `nodemesh root ${random.bytes(4).toString('hex')}`;
  const certificate = unwrap(readRoot(buildRoot(keys, trustDomain, name, validity, random)));
  return { certificate, privateKey: keys.privateKey, chainPem: [] };
}

function newIntermediate(
  { trustDomain, clock, random }: SelfSignedCaOptions,
  root: SigningCertificate,
): SigningCertificate {
  const keys = createKeyPair();
  const wanted = validityFrom(clock.wallMs(), INTERMEDIATE_LIFE_MS);
  const notAfterMs = Math.min(wanted.notAfterMs, root.certificate.fields.notAfterMs);
  const validity = { ...wanted, notAfterMs };
  const name = `nodemesh issuer ${random.bytes(4).toString('hex')}`;
  const issuer = issuerOf(root);
  const der = buildIntermediate(issuer, keys.publicKey, trustDomain, name, validity, random);
  const certificate = unwrap(readRoot(der));
  return { certificate, privateKey: keys.privateKey, chainPem: [certificate.pem] };
}

function validityFrom(nowMs: number, lifeMs: number): { notBeforeMs: number; notAfterMs: number } {
  return { notBeforeMs: nowMs - NOT_BEFORE_BACKDATE_MS, notAfterMs: nowMs + lifeMs };
}

/** What `ca-state.json` holds. */
interface StoredState {
  readonly format: 1;
  readonly trustDomain: string;
  readonly generation: number;
  readonly phase: RotationPhase;
  readonly roots: readonly string[];
  readonly intermediate: string;
}

function keyName(kind: 'root' | 'issuer', { certificate }: SigningCertificate): string {
  return `${kind}-${certificate.fingerprint.slice(0, 16)}.key`;
}

function storedText(trustDomain: string, state: State): string {
  const stored: StoredState = {
    format: 1,
    trustDomain,
    generation: state.generation,
    phase: state.phase,
    roots: state.roots.map(({ certificate }) => certificate.pem),
    intermediate: state.intermediate.certificate.pem,
  };
  return `${JSON.stringify(stored, undefined, 2)}\n`;
}

function toFiles(trustDomain: string, state: State): Map<string, string> {
  const files = new Map([[CA_STATE_FILE, storedText(trustDomain, state)]]);
  for (const root of state.roots) files.set(keyName('root', root), privateKeyPem(root.privateKey));
  files.set(keyName('issuer', state.intermediate), privateKeyPem(state.intermediate.privateKey));
  return files;
}

function loadState(
  { trustDomain }: SelfSignedCaOptions,
  files: ReadonlyMap<string, string>,
  text: string,
): State {
  const stored = parseStored(text);
  if (stored.trustDomain !== trustDomain) {
    const message = `Cannot open CA: it is of trust domain "${stored.trustDomain}", not "${trustDomain}"`;
    throw new MeshError('MESH_CONFIG_INVALID', message);
  }
  const load = (kind: 'root' | 'issuer', pem: string): SigningCertificate => {
    const der = parseOnePem('CERTIFICATE', pem);
    const certificate = der.ok ? readRoot(der.value) : der;
    if (!certificate.ok) throw damaged(certificate.error.message);
    const name = `${kind}-${certificate.value.fingerprint.slice(0, 16)}.key`;
    const key = files.get(name);
    if (key === undefined) throw keyMissing(`"${name}" is gone; restore the backup of its state`);
    return {
      certificate: certificate.value,
      privateKey: unwrap(readPrivateKey(key, certificate.value)),
      chainPem: kind === 'root' ? [] : [certificate.value.pem],
    };
  };
  const roots = stored.roots.map((pem) => load('root', pem));
  if (roots.length !== (stored.phase === 'steady' ? 1 : 2)) throw damaged('wrong number of roots');
  const intermediate = load('issuer', stored.intermediate);
  return withBundle(trustDomain, { roots, intermediate, phase: stored.phase }, stored.generation);
}

function parseStored(text: string): StoredState {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw damaged('it is not JSON');
  }
  if (typeof value !== 'object' || value === null) throw damaged('it is not an object');
  const fields: Partial<Record<keyof StoredState, unknown>> = value;
  const { format, trustDomain, generation, phase, roots, intermediate } = fields;
  const isText = (item: unknown): item is string => typeof item === 'string';
  if (
    format !== 1 ||
    !isText(trustDomain) ||
    typeof generation !== 'number' ||
    !Number.isSafeInteger(generation) ||
    (phase !== 'steady' && phase !== 'trust' && phase !== 'issue') ||
    !Array.isArray(roots) ||
    !roots.every(isText) ||
    !isText(intermediate)
  ) {
    throw damaged('a field is missing or of the wrong kind');
  }
  return { format, trustDomain, generation, phase, roots, intermediate };
}

function damaged(reason: string): MeshError {
  const message = `Cannot open CA: "${CA_STATE_FILE}" is damaged: ${reason}`;
  return new MeshError('MESH_CONFIG_INVALID', message);
}

function keyMissing(reason: string): MeshError {
  return new MeshError('MESH_CA_KEY_MISSING', `Cannot open CA: ${reason}`);
}
