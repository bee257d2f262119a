/** The control plane behind a real discovery server and CA service, with real clients on loopback. */

import t, { type Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createNullRegistry } from '../../src/base/metrics.ts';
import { unwrap } from '../../src/base/result.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { createNullCaptureStore } from '../../src/controlplane/capture-store.ts';
import type { MeshObject } from '../../src/controlplane/objects.ts';
import {
  createControlPlane,
  type ControlPlane,
  type MeshClient,
} from '../../src/controlplane/service.ts';
import { findCaller, parseTokens } from '../../src/controlplane/tokens.ts';
import { ok } from '../../src/base/result.ts';
import { unauthenticated } from '../../src/controlplane/caller.ts';
import { CA_PATH, createCaClient } from '../../src/discovery/ca-client.ts';
import { createCaMethod } from '../../src/discovery/ca-service.ts';
import type { DiscoveryClient, TypeSubscription } from '../../src/discovery/client.ts';
import {
  captureReportResource,
  decodeTrustBundle,
  type SharedTrustBundle,
} from '../../src/discovery/codec-local.ts';
import { decodeAddress } from '../../src/discovery/codec-workload.ts';
import { createDiscoveryServer, type DiscoveryServer } from '../../src/discovery/server.ts';
import { TYPE_URL } from '../../src/discovery/type-urls.ts';
import { DISCOVERY_PATH } from '../../src/discovery/wire-messages.ts';
import { createCsr } from '../../src/identity/csr.ts';
import { createKeyPair } from '../../src/identity/keys.ts';
import type { SelfSignedCa } from '../../src/identity/self-signed-ca.ts';
import { dialLoopback, runClient, serveLoopback, until } from '../discovery/loopback.ts';
import { createTestCa, spiffeId } from '../identity/fixtures.ts';
import { namespace, own, pod } from './build.ts';

const TOKENS =
  'node-a aaaaaaaaaaaaaaaaaaaa\nnode-b bbbbbbbbbbbbbbbbbbbb\nshop/waypoint wwwwwwwwwwwwwwwwwwww\n';
const STRICT_KEY = 'nodemesh-system/istio_converted_static_strict';

interface Mesh {
  readonly plane: ControlPlane;
  readonly ca: SelfSignedCa;
  readonly port: number;
  readonly put: (...objects: readonly MeshObject[]) => void;
  readonly issuerChanges: () => number;
}

async function startMesh(t: Test): Promise<Mesh> {
  const clock = createSystemClock();
  const ca = await createTestCa();
  const table = unwrap(parseTokens(TOKENS));
  let issuerChanges = 0;
  const common = { clock, logger: createNullLogger(), registry: createNullRegistry() };
  const plane = await createControlPlane({
    ...common,
    ca,
    authenticator: {
      authenticate(token) {
        const caller = findCaller(table, token);
        return Promise.resolve(caller === undefined ? unauthenticated('unknown') : ok(caller));
      },
    },
    captureStore: createNullCaptureStore(),
    behind: (published) => server.behind(published),
    tuning: { gatherMs: 2, acknowledgeMarginMs: 5, rotationMarginMs: 20 },
    onIssuerChanged: () => void issuerChanges++,
  });
  const server: DiscoveryServer<MeshClient, string> = createDiscoveryServer<MeshClient, string>({
    ...common,
    ...plane.hooks,
    pushIntervalMs: 0,
  });
  const loopback = await serveLoopback(
    new Map([
      [DISCOVERY_PATH, server.method],
      [CA_PATH, createCaMethod<MeshClient, string>({ ...common, ...plane.hooks })],
    ]),
  );
  t.teardown(async () => {
    await loopback.close();
    await plane[Symbol.asyncDispose]();
  });
  return {
    plane,
    ca,
    port: loopback.port,
    put: (...objects) => plane.apply(objects.map((object) => ({ type: 'put' as const, object }))),
    issuerChanges: () => issuerChanges,
  };
}

interface Node {
  readonly client: DiscoveryClient;
  readonly held: ReadonlyMap<string, Map<string, Uint8Array>>;
  /** While set, nothing is applied, and so nothing acknowledged. */
  stall: Promise<void> | undefined;
  readonly sign: (account: string) => Promise<readonly string[]>;
  readonly bundle: () => SharedTrustBundle | undefined;
  readonly seen: () => string;
  readonly report: (...uids: readonly string[]) => void;
}

function startNode(t: Test, mesh: Mesh, name: string, token: string): Node {
  const types = [
    TYPE_URL.nodeSettings,
    TYPE_URL.trustBundle,
    TYPE_URL.authorization,
    TYPE_URL.address,
    TYPE_URL.localPod,
  ];
  const held = new Map(types.map((typeUrl) => [typeUrl, new Map<string, Uint8Array>()]));
  const state: { stall: Promise<void> | undefined } = { stall: undefined };
  const subscriptions = types.map((typeUrl): TypeSubscription => ({
    typeUrl,
    mode: 'wildcard',
    async apply({ resources, removed }) {
      await state.stall;
      for (const { name: key, body } of resources) held.get(typeUrl)?.set(key, body);
      for (const key of removed) held.get(typeUrl)?.delete(key);
      return [];
    },
  }));
  const { client, stop } = runClient(
    mesh.port,
    [],
    { subscriptions, token: () => Promise.resolve(token) },
    name,
  );
  t.teardown(stop);
  const signer = createCaClient({
    clock: createSystemClock(),
    session: (signal) => dialLoopback(mesh.port, signal),
    token: () => Promise.resolve(token),
    authority: 'localhost',
    scheme: 'http',
  });
  return Object.assign(state, {
    client,
    held,
    async sign(account: string) {
      const identity = spiffeId(account);
      const csr = createCsr(identity, createKeyPair());
      const signed = await signer.sign(csr, identity, AbortSignal.timeout(5_000));
      return signed.chainPem;
    },
    bundle() {
      const body = held.get(TYPE_URL.trustBundle)?.get('cluster.local');
      return body && unwrap(decodeTrustBundle(body));
    },
    seen() {
      const body = held.get(TYPE_URL.address)?.get('Kubernetes//Pod/shop/web');
      const address = body && unwrap(decodeAddress(body));
      if (address?.kind !== 'workload') return 'absent';
      const { tunnelProtocol, authorizationPolicies } = address.workload;
      return authorizationPolicies.includes(STRICT_KEY)
        ? `${tunnelProtocol} strict`
        : tunnelProtocol;
    },
    report(...uids: readonly string[]) {
      const reports = uids.map((uid) =>
        captureReportResource({ podUid: uid as PodUid, state: 'captured', reason: '' }),
      );
      client.report(TYPE_URL.captureReport, reports);
    },
  });
}

const enabled = { 'nodemesh.dev/mesh': 'enabled' };
const web = pod('shop/web', { uid: 'u1', sa: 'web', ip: '10.0.0.1', phase: 'Running' });
const db = pod('shop/db', {
  uid: 'u2',
  sa: 'db',
  ip: '10.0.0.2',
  phase: 'Running',
  node: 'node-b',
});
const strict = own('MeshConfig', 'nodemesh-system/default', { mtls: { mode: 'STRICT' } });
const A = 'aaaaaaaaaaaaaaaaaaaa';
const W = 'wwwwwwwwwwwwwwwwwwww';
const B = 'bbbbbbbbbbbbbbbbbbbb';

t.test(
  'nodes join, see what is theirs, and STRICT waits until all have acknowledged',
  async (t) => {
    const mesh = await startMesh(t);
    mesh.put(namespace('shop', enabled), strict, web, db);
    const a = startNode(t, mesh, 'node-a', A);
    const b = startNode(t, mesh, 'node-b', B);
    await new Promise((resolve) => setTimeout(resolve, 30));
    t.equal(a.held.get(TYPE_URL.address)?.size, 0, 'nothing before the source has told everything');
    await mesh.plane.sourceSynced();
    await until(() => a.seen() === 'none' && b.seen() === 'none', 'the first snapshot');
    await until(() => a.held.get(TYPE_URL.localPod)?.size === 1, 'local pods');
    t.same([...(a.held.get(TYPE_URL.localPod)?.keys() ?? [])], ['u1'], 'T106 its own only');
    t.same([...(b.held.get(TYPE_URL.localPod)?.keys() ?? [])], ['u2']);
    t.same([...(b.held.get(TYPE_URL.nodeSettings)?.keys() ?? [])], ['node']);
    b.report('u1');
    let release = (): void => {};
    b.stall = new Promise((resolve) => {
      release = resolve;
    });
    a.report('u1');
    await until(() => a.seen() === 'hbone', 'HBONE');
    await new Promise((resolve) => setTimeout(resolve, 60));
    t.equal(a.seen(), 'hbone', 'one node has not heard');
    b.stall = undefined;
    release();
    await until(() => a.seen() === 'hbone strict' && b.seen() === 'hbone strict', 'STRICT');
    t.match(mesh.plane.status(), { nodes: ['node-a', 'node-b'], resources: { addresses: 2 } });
  },
);

t.test('T01 a node gets certificates for its own enrolled pods only', async (t) => {
  const mesh = await startMesh(t);
  mesh.put(namespace('shop', enabled), web, db);
  mesh.put(pod('shop/out', { uid: 'u3', sa: 'out', labels: { 'nodemesh.dev/mesh': 'disabled' } }));
  await mesh.plane.sourceSynced();
  const a = startNode(t, mesh, 'node-a', A);
  const stranger = startNode(t, mesh, 'node-a', 'cccccccccccccccccccc');
  t.ok((await a.sign('web')).length >= 1);
  for (const account of ['db', 'out', 'nobody']) {
    await t.rejects(a.sign(account), { code: 'MESH_CA_REFUSED' }, account);
  }
  await t.rejects(stranger.sign('web'), { code: 'MESH_CA_REFUSED' }, 'T05 a wrong token');
  await new Promise((resolve) => setTimeout(resolve, 30));
  t.equal(stranger.held.get(TYPE_URL.address)?.size, 0, 'T105 nothing without a token');
});

t.test('T106 a waypoint sees the mesh but no node, and signs for itself alone', async (t) => {
  const mesh = await startMesh(t);
  mesh.put(namespace('shop', enabled), web, pod('shop/w', { sa: 'waypoint', ip: '10.0.0.9' }));
  await mesh.plane.sourceSynced();
  const waypoint = startNode(t, mesh, 'node-a', W);
  await until(() => waypoint.seen() === 'none' && waypoint.bundle() !== undefined, 'the mesh');
  waypoint.report('u1');
  t.ok((await waypoint.sign('waypoint')).length >= 1);
  await t.rejects(waypoint.sign('web'), { code: 'MESH_CA_REFUSED' });
  t.equal(waypoint.held.get(TYPE_URL.localPod)?.size, 0, 'it is no node, whatever it says');
  t.equal(waypoint.held.get(TYPE_URL.nodeSettings)?.size, 0);
  t.equal(waypoint.seen(), 'none', 'and captures nothing');
  t.match(mesh.plane.status(), { nodes: [], workloads: ['shop/waypoint'] });
});

t.test('the root rotates: trust, issue, retire, each after everybody is ready', async (t) => {
  const mesh = await startMesh(t);
  mesh.put(namespace('shop', enabled), web);
  await mesh.plane.sourceSynced();
  const a = startNode(t, mesh, 'node-a', A);
  const b = startNode(t, mesh, 'node-b', B);
  a.report('u1');
  await until(() => a.seen() === 'hbone' && b.bundle() !== undefined, 'enrolled');
  await a.sign('web');
  const old = a.bundle();
  t.equal(old?.rootPems.length, 1);
  let release = (): void => {};
  b.stall = new Promise((resolve) => {
    release = resolve;
  });
  mesh.put(own('MeshConfig', 'nodemesh-system/default', { rootRotation: 1 }));
  await until(() => a.bundle()?.rootPems.length === 2, 'the new root is trusted');
  await new Promise((resolve) => setTimeout(resolve, 300));
  t.equal(mesh.ca.phase, 'trust', 'a node has not acknowledged');
  t.equal(a.bundle()?.issuingRootFingerprint, old?.issuingRootFingerprint);
  b.stall = undefined;
  release();
  await until(() => a.bundle()?.issuingRootFingerprint !== old?.issuingRootFingerprint, 'issue');
  t.equal(mesh.issuerChanges(), 1);
  await new Promise((resolve) => setTimeout(resolve, 400));
  t.equal(mesh.ca.phase, 'issue', 'a pod holds a certificate of the old root');
  t.match(mesh.plane.status().rootRotation, { phase: 'issue', count: 1 });
  await a.sign('web');
  await until(() => a.bundle()?.rootPems.length === 1, 'retire');
  t.not(a.bundle()?.rootPems[0], old?.rootPems[0]);
  t.equal(mesh.ca.phase, 'steady');
  await new Promise((resolve) => setTimeout(resolve, 150));
  t.equal(mesh.ca.phase, 'steady', 'once');
  t.equal(mesh.plane.rotateRoot(), true, 'and again on command');
  await until(() => a.bundle()?.rootPems.length === 2, 'the next one');
});
