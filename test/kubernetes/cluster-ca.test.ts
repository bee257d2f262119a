/** The CA in a Secret, against a fake API server that keeps Secrets and ConfigMaps with versions. */

import t, { type Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createNullRegistry } from '../../src/base/metrics.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import { unwrap } from '../../src/base/result.ts';
import { bundlePem } from '../../src/identity/trust-bundle.ts';
import type { SelfSignedCa } from '../../src/identity/self-signed-ca.ts';
import { openClusterCa, watchClusterCa, watchPluggedCa } from '../../src/kubernetes/cluster-ca.ts';
import { publishRoots, readPublishedRoots } from '../../src/kubernetes/root-config-map.ts';
import type { PluggedCaFiles } from '../../src/identity/ca.ts';
import { createKeyPair } from '../../src/identity/keys.ts';
import { plug } from '../identity/fixtures.ts';
import { eventually, startFakeApi, type FakeApi, type FakeObject } from './fake-api.ts';
import { keepObjects, type Kept } from './fake-objects.ts';

const NS = 'nodemesh-system';
const SECRETS = `/api/v1/namespaces/${NS}/secrets`;

async function startStore(t: Test): Promise<{ api: FakeApi; kept: Map<string, Kept> }> {
  const api = await startFakeApi(t, createSystemClock());
  return { api, kept: keepObjects(api, { watched: [SECRETS] }) };
}

const parts = {
  clock: createSystemClock(),
  random: createSystemRandom(),
  logger: createNullLogger(),
  registry: createNullRegistry(),
  namespace: NS,
};

async function open(api: FakeApi, identitiesExist: boolean = false): Promise<SelfSignedCa> {
  const ca = await openClusterCa({
    ...parts,
    client: api.client,
    trustDomain: 'cluster.local',
    identitiesExist: () => Promise.resolve(identitiesExist),
  });
  if (!('beginRotation' in ca)) throw new Error('not our own CA');
  return ca;
}

t.test('replicas that start at once agree on one root', async (t) => {
  const { api, kept } = await startStore(t);
  const all = await Promise.all(Array.from({ length: 5 }, () => open(api)));
  t.equal(new Set(all.map(({ issuerId }) => issuerId)).size, 1);
  t.ok(kept.has(`${SECRETS}/nodemesh-ca`));
});

t.test('T132: where roots were published, or identities exist, no new root is made', async (t) => {
  const { api, kept } = await startStore(t);
  const ca = await open(api);
  const pem = bundlePem(ca.bundle).join('');
  unwrap(await publishRoots(api.client, NS, pem));
  t.equal(unwrap(await readPublishedRoots(api.client, NS)), pem);
  const backup = kept.get(`${SECRETS}/nodemesh-ca`);
  kept.delete(`${SECRETS}/nodemesh-ca`);
  await t.rejects(open(api), { code: 'MESH_CA_KEY_MISSING' });
  if (backup !== undefined) kept.set(`${SECRETS}/nodemesh-ca`, backup);
  t.equal((await open(api)).issuerId, ca.issuerId, 'restored from its backup');
  kept.clear();
  await t.rejects(open(api, true), { code: 'MESH_CA_KEY_MISSING' });
});

t.test('F12: of two that rotate at once one wins, and both go on with its root', async (t) => {
  const { api } = await startStore(t);
  const one = await open(api);
  const two = await open(api);
  const steps = await Promise.allSettled([one.beginRotation(), two.beginRotation()]);
  t.same(steps.map(({ status }) => status).toSorted(), ['fulfilled', 'rejected']);
  await Promise.all([one.refresh(), two.refresh()]);
  t.same(bundlePem(one.bundle), bundlePem(two.bundle));
  t.equal(one.phase, 'trust');
  await t.rejects(two.beginRotation(), { code: 'MESH_CA_REFUSED' });
});

t.test('a replica takes over what another has stored', async (t) => {
  const { api } = await startStore(t);
  const one = await open(api);
  const two = await open(api);
  let changes = 0;
  const missing: number[] = [];
  const registry = {
    ...createNullRegistry(),
    gauge: ({ name }: { name: string }) => ({
      set: (value: number) => void (name === 'nodemesh_ca_secret_missing' && missing.push(value)),
    }),
  };
  const onChanged = (): void => void changes++;
  const watch = watchClusterCa({ ...parts, registry, client: api.client, ca: two, onChanged });
  t.teardown(() => watch[Symbol.asyncDispose]());
  await watch.synced;
  await one.beginRotation();
  await one.switchIssuer();
  await eventually('the new issuer', () => two.issuerId === one.issuerId);
  t.ok(changes >= 1);
  api.remove(SECRETS, `${NS}/nodemesh-ca`);
  await eventually('the alarm', () => missing.at(-1) === 1);
  t.equal(two.issuerId, one.issuerId, 'signing goes on');
});

t.test('the operator’s own authority comes first, and must be whole', async (t) => {
  const { api, kept } = await startStore(t);
  const data = { 'ca-cert.pem': Buffer.from('x').toString('base64') };
  kept.set(`${SECRETS}/cacerts`, { metadata: { name: 'cacerts' }, data });
  await t.rejects(open(api), { code: 'MESH_CONFIG_INVALID', message: /no "ca-key.pem"/ });
});

function cacerts({ caCert, caKey, certChain, rootCert }: PluggedCaFiles): FakeObject {
  const files = {
    'ca-cert.pem': caCert,
    'ca-key.pem': caKey,
    'cert-chain.pem': certChain,
    'root-cert.pem': rootCert,
  };
  const coded = Object.entries(files).map(([name, text]) => [
    name,
    Buffer.from(text).toString('base64'),
  ]);
  return { metadata: { name: 'cacerts', namespace: NS }, data: Object.fromEntries(coded) };
}

t.test('an operator’s authority is taken over when it is replaced, if it is whole', async (t) => {
  const { api, kept } = await startStore(t);
  const [first, second] = [0, 1].map(() => plug(createKeyPair(), 'intermediate').files);
  if (first === undefined || second === undefined) throw new Error('No authorities');
  kept.set(`${SECRETS}/cacerts`, cacerts(first));
  api.put(SECRETS, cacerts(first));
  const errors: string[] = [];
  const logger = { ...createNullLogger(), error: (message: string) => void errors.push(message) };
  const common = { ...parts, logger, client: api.client };
  const ca = await openClusterCa({
    ...common,
    trustDomain: 'cluster.local',
    identitiesExist: () => Promise.resolve(true),
  });
  if (!('replace' in ca)) throw new Error('not the operator’s CA');
  const { issuerId } = ca;
  let changes = 0;
  const watch = watchPluggedCa({ ...common, ca, onChanged: () => void changes++ });
  t.teardown(() => watch[Symbol.asyncDispose]());
  await watch.synced;
  t.equal(changes, 0, 'it was known');
  api.put(SECRETS, cacerts({ ...second, caKey: first.caKey }));
  await eventually('the complaint', () => errors.includes('Cannot take over the operator’s CA'));
  api.put(SECRETS, { ...cacerts(second), data: {} });
  await eventually('another', () => errors.includes('An object cannot be read'));
  t.same([changes, ca.phase], [0, 'steady']);
  api.put(SECRETS, cacerts(second));
  await eventually('both are trusted', () => ca.phase === 'trust');
  t.same([changes, ca.issuerId, bundlePem(ca.bundle).length], [1, issuerId, 2]);
  api.remove(SECRETS, `${NS}/cacerts`);
  await eventually('the alarm', () => errors.some((message) => message.includes('was deleted')));
  t.equal(ca.phase, 'trust', 'signing goes on');
});
