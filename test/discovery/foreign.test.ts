/** A foreign HBONE data plane, by hand over node's own HTTP/2: the requests a ztunnel sends, and no more. */

import { once } from 'node:events';
import * as http2 from 'node:http2';
import type { AddressInfo } from 'node:net';

import { create, fromBinary, toBinary, type MessageInitShape } from '@bufbuild/protobuf';
import t from 'tap';

import { MeshError } from '../../src/base/errors.ts';
import { createNullRegistry } from '../../src/base/metrics.ts';
import { fail, ok, type Result } from '../../src/base/result.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import { CA_PATH, createCaClient } from '../../src/discovery/ca-client.ts';
import { createCaMethod, type CertificateCall } from '../../src/discovery/ca-service.ts';
import {
  DeltaDiscoveryRequestSchema,
  DeltaDiscoveryResponseSchema,
  type DeltaDiscoveryRequest,
  type DeltaDiscoveryResponse,
} from '../../src/discovery/gen/envoy/service/discovery/v3/ads_pb.ts';
import {
  IstioCertificateRequestSchema,
  IstioCertificateResponseSchema,
} from '../../src/discovery/gen/istio/v1/auth/ca_pb.ts';
import { ResourceCache } from '../../src/discovery/resource-cache.ts';
import type { ClientInfo } from '../../src/discovery/server.ts';
import { TYPE_URL } from '../../src/discovery/type-urls.ts';
import { DISCOVERY_PATH, type Rejection } from '../../src/discovery/wire-messages.ts';
import { createWireResource } from '../../src/discovery/wire-resource.ts';
import {
  clock,
  createHeld,
  createListLogger,
  dialLoopback,
  runClient,
  serveDiscovery,
  serveLoopback,
  textResource,
  TOKEN,
  until,
} from './loopback.ts';

const frame = (message: Uint8Array): Buffer => {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
};

/** Splits what comes into messages. */
function messagesOf(stream: http2.Http2Stream): Buffer[] {
  const messages: Buffer[] = [];
  let bytes = Buffer.alloc(0);
  stream.on('data', (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk]);
    while (bytes.length >= 5 && bytes.length >= 5 + bytes.readUInt32BE(1)) {
      const end = 5 + bytes.readUInt32BE(1);
      messages.push(bytes.subarray(5, end));
      bytes = bytes.subarray(end);
    }
  });
  return messages;
}

interface Ztunnel {
  send(request: MessageInitShape<typeof DeltaDiscoveryRequestSchema>): void;
  /** The next response; answered with an ACK. */
  next(): Promise<DeltaDiscoveryResponse>;
  close(): void;
}

function startZtunnel(port: number): Ztunnel {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  session.on('error', () => {});
  const stream = session.request({
    ':method': 'POST',
    ':path': DISCOVERY_PATH,
    'content-type': 'application/grpc',
    te: 'trailers',
    authorization: `Bearer ${TOKEN}`,
    clusterid: 'Kubernetes',
  });
  stream.on('error', () => {});
  const messages = messagesOf(stream);
  const send: Ztunnel['send'] = (request) => {
    const message = create(DeltaDiscoveryRequestSchema, request);
    stream.write(frame(toBinary(DeltaDiscoveryRequestSchema, message)));
  };
  return {
    send,
    async next() {
      await until(() => messages.length > 0, 'a response');
      const response = fromBinary(
        DeltaDiscoveryResponseSchema,
        messages.shift() ?? Buffer.alloc(0),
      );
      send({ typeUrl: response.typeUrl, responseNonce: response.nonce });
      return response;
    },
    close: () => session.destroy(),
  };
}

const node = {
  id: 'ztunnel~10.0.0.5~ztunnel-x.istio-system~istio-system.svc.cluster.local',
  metadata: { NAME: 'ztunnel-x', NAMESPACE: 'istio-system', NODE_NAME: 'node-1' },
};
const names = (response: DeltaDiscoveryResponse): string[] =>
  response.resources.map(({ name }) => name).toSorted();

void t.test(
  'a foreign node with wildcard subscriptions gets each type whole in one message',
  async (t) => {
    const [addresses, policies] = [TYPE_URL.address, TYPE_URL.authorization].map((typeUrl) => {
      const cache = new ResourceCache(typeUrl);
      const all = Array.from({ length: 3_000 }, (_, index) => `n${index}`);
      cache.update({
        set: all.map((name) => createWireResource(name, Buffer.from(name), [], ['g'])),
      });
      return cache;
    }) as [ResourceCache, ResourceCache];
    let claimed = '';
    const server = await serveDiscovery([addresses, policies], {
      viewFor: (_client, claim) => {
        claimed = `${claim.id} on ${claim.metadata.get('NODE_NAME')}`;
        return new Map([addresses, policies].map((cache) => [cache.typeUrl, cache]));
      },
    });
    const ztunnel = startZtunnel(server.port);
    ztunnel.send({ node, typeUrl: TYPE_URL.address });
    ztunnel.send({ node, typeUrl: TYPE_URL.authorization });
    const [first, second] = [await ztunnel.next(), await ztunnel.next()];
    t.equal(claimed, `${node.id} on node-1`);
    t.equal(first.typeUrl, TYPE_URL.authorization, 'policies come first though asked for second');
    t.equal(second.typeUrl, TYPE_URL.address);
    for (const response of [first, second]) {
      t.equal(response.resources.length, 3_000);
      t.notOk(response.$unknown);
      t.notOk(response.partial);
      const [resource] = response.resources;
      t.equal(resource?.resource?.typeUrl, response.typeUrl);
      t.same(resource?.groups, [], 'nothing it does not know');
    }
    addresses.update({ set: [textResource('n1', 'new')], removed: ['n2'] });
    const change = await ztunnel.next();
    t.same([names(change), change.removedResources], [['n1'], ['n2']]);
    ztunnel.close();
    await until(() => server.discovery.clientCount === 0, 'the end');
    await server.close();
  },
);

void t.test('a foreign node on demand asks by address and by hostname', async (t) => {
  const cache = new ResourceCache(TYPE_URL.address);
  cache.update({
    set: [
      createWireResource('ns/svc.ns.svc.cluster.local', Buffer.from('s'), ['net/10.0.0.1']),
      createWireResource(
        'c//Pod/ns/p',
        Buffer.from('p'),
        ['net/10.1.0.1'],
        ['ns/svc.ns.svc.cluster.local'],
      ),
    ],
  });
  const server = await serveDiscovery([cache]);
  const ztunnel = startZtunnel(server.port);
  const typeUrl = TYPE_URL.address;
  ztunnel.send({ node, typeUrl, resourceNamesSubscribe: ['*'], resourceNamesUnsubscribe: ['*'] });
  t.same(names(await ztunnel.next()), [], 'an empty answer makes it ready');
  ztunnel.send({ typeUrl, resourceNamesSubscribe: ['net/10.1.0.1'] });
  t.same(names(await ztunnel.next()), ['c//Pod/ns/p']);
  ztunnel.send({ typeUrl, resourceNamesSubscribe: ['net/10.9.9.9'] });
  t.same((await ztunnel.next()).removedResources, ['net/10.9.9.9']);
  ztunnel.send({ typeUrl, resourceNamesSubscribe: ['ns/svc.ns.svc.cluster.local'] });
  const both = await ztunnel.next();
  t.same(names(both), ['c//Pod/ns/p', 'ns/svc.ns.svc.cluster.local']);
  t.same(both.resources.find(({ name }) => name.startsWith('ns/'))?.aliases, ['net/10.0.0.1']);
  ztunnel.close();
  await server.close();
});

void t.test('a foreign node that reconnects with versions gets only what changed', async (t) => {
  const cache = new ResourceCache(TYPE_URL.address);
  cache.update({ set: [textResource('a'), textResource('b')] });
  const server = await serveDiscovery([cache]);
  const ztunnel = startZtunnel(server.port);
  ztunnel.send({
    node,
    typeUrl: TYPE_URL.address,
    initialResourceVersions: { a: textResource('a').version, b: 'old', gone: 'x' },
  });
  const response = await ztunnel.next();
  t.same([names(response), response.removedResources], [['b'], ['gone']]);
  ztunnel.close();
  await server.close();
});

void t.test("a foreign node's NACK is heard without our details", async (t) => {
  const rejected: (readonly Rejection[])[] = [];
  const cache = new ResourceCache(TYPE_URL.authorization);
  cache.update({ set: [textResource('ns/p')] });
  const onRejected = (_client: ClientInfo, _type: string, all: readonly Rejection[]): void =>
    void rejected.push(all);
  const server = await serveDiscovery([cache], { onRejected });
  const ztunnel = startZtunnel(server.port);
  ztunnel.send({ node, typeUrl: TYPE_URL.authorization });
  await until(() => server.discovery.clientCount === 1, 'the client');
  ztunnel.send({
    typeUrl: TYPE_URL.authorization,
    responseNonce: '1',
    errorDetail: { code: 3, message: 'ns/p: bad' },
  });
  await until(() => rejected.length === 1, 'the NACK');
  t.same(rejected, [[{ name: '', reason: 'ns/p: bad' }]]);
  ztunnel.close();
  await server.close();
});

/** A control plane that is not ours: knows Istio's fields and sends a type whole. */
async function startIstiod(): Promise<{
  port: number;
  requests: DeltaDiscoveryRequest[];
  close(): void;
}> {
  const server = http2.createServer();
  const requests: DeltaDiscoveryRequest[] = [];
  server.on('sessionError', () => {});
  server.on('stream', (stream: http2.ServerHttp2Stream) => {
    stream.on('error', () => {});
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' });
    const messages = messagesOf(stream);
    stream.on('data', () => {
      for (const message of messages.splice(0)) {
        const request = fromBinary(DeltaDiscoveryRequestSchema, message);
        requests.push(request);
        if (request.responseNonce !== '' || request.reportSequence > 0n) continue;
        const { typeUrl } = request;
        const resource = { typeUrl, value: Buffer.from('x') };
        const response = create(DeltaDiscoveryResponseSchema, {
          typeUrl,
          nonce: 'n',
          systemVersionInfo: '2026-11-20T00:00:00Z/7',
          resources: [{ name: 'one', version: 'v', resource }],
        });
        stream.write(frame(toBinary(DeltaDiscoveryResponseSchema, response)));
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return { port, requests, close: () => void server.close() };
}

void t.test('our client joins a foreign control plane', async (t) => {
  const istiod = await startIstiod();
  const held = [createHeld(TYPE_URL.address), createHeld(TYPE_URL.authorization)];
  const { client, stop } = runClient(istiod.port, held);
  client.report(TYPE_URL.captureReport, []);
  await client.whenSynced([TYPE_URL.address, TYPE_URL.authorization]);
  t.same(
    held.map(({ resources }) => [...resources]),
    [[['one', 'x']], [['one', 'x']]],
  );
  const acks = (): number => istiod.requests.filter((r) => r.responseNonce === 'n').length;
  await until(() => acks() === 2, 'the ACKs');
  t.equal(istiod.requests[0]?.typeUrl, TYPE_URL.authorization, 'policies are asked for first');
  t.match(istiod.requests[0]?.node, { id: 'node-a', metadata: { NODE_NAME: 'node-a' } });
  await stop();
  istiod.close();
});

const identity = 'spiffe://cluster.local/ns/shop/sa/cart' as SpiffeId;
const pem = (text: string): string =>
  `-----BEGIN CERTIFICATE-----\n${text}\n-----END CERTIFICATE-----\n`;

async function serveCa(issue: (call: CertificateCall) => Result<readonly string[]>) {
  const logger = createListLogger();
  const calls: (CertificateCall & { readonly client: string })[] = [];
  const method = createCaMethod<ClientInfo, string>({
    logger,
    registry: createNullRegistry(),
    async authenticate(metadata) {
      if (metadata.get('authorization') === `Bearer ${TOKEN}`) return ok({ id: 'node-1' });
      return fail(new MeshError('MESH_DISCOVERY_UNAUTHENTICATED', 'The token has expired'));
    },
    async issue(client, call) {
      calls.push({ client: client.id, ...call });
      return issue(call);
    },
  });
  const server = await serveLoopback(new Map([[CA_PATH, method]]));
  return { ...server, logger, calls };
}

void t.test('a foreign node gets a certificate over the CA call', async (t) => {
  const server = await serveCa(() => ok([pem('leaf'), pem('intermediate'), pem('root')]));
  const session = http2.connect(`http://127.0.0.1:${server.port}`);
  const stream = session.request({
    ':method': 'POST',
    ':path': CA_PATH,
    'content-type': 'application/grpc',
    authorization: `Bearer ${TOKEN}`,
    clusterid: 'Kubernetes',
  });
  const messages = messagesOf(stream);
  const request = create(IstioCertificateRequestSchema, {
    csr: 'csr',
    validityDuration: 86_400n,
    metadata: { ImpersonatedIdentity: identity },
  });
  stream.end(frame(toBinary(IstioCertificateRequestSchema, request)));
  const [trailers] = (await once(stream, 'trailers')) as [http2.IncomingHttpHeaders];
  t.equal(trailers['grpc-status'], '0');
  const answer = fromBinary(IstioCertificateResponseSchema, messages[0] ?? Buffer.alloc(0));
  t.same(answer.certChain, [pem('leaf'), pem('intermediate'), pem('root')]);
  t.same(server.calls, [{ client: 'node-1', csrPem: 'csr', identity, ttlMs: 86_400_000 }]);
  session.close();
  await server.close();
});

void t.test('CA client and service understand each other', async (t) => {
  let answer: Result<readonly string[]> = ok([pem('leaf'), pem('old') + pem('new')]);
  const server = await serveCa(() => answer);
  const session = await dialLoopback(server.port);
  let token: string | undefined = TOKEN;
  const ca = createCaClient({
    clock,
    session: async () => session,
    token: async () => token,
    authority: 'ca',
    scheme: 'http',
    ttlMs: 3_600_000,
    metadata: new Map([['clusterid', 'c']]),
  });
  const sign = () => ca.sign('csr', identity, new AbortController().signal);
  t.same(await sign(), { chainPem: [pem('leaf')], rootsPem: [pem('old'), pem('new')] });
  t.match(server.calls, [{ ttlMs: 3_600_000 }]);
  answer = fail(new MeshError('MESH_CA_REFUSED', 'No pod of cart on node-1: secret'));
  const refused = await sign().then(
    () => new Error('signed'),
    (error: Error) => error,
  );
  t.match(refused, { code: 'MESH_CA_REFUSED', cause: { details: { status: 7 } } });
  t.notMatch(JSON.stringify([refused.message, refused]), /secret/, 'opaque outside (T01)');
  t.match(server.logger.lines.at(-1)?.fields['error'], { message: /secret/ }, 'full in the log');
  answer = fail(new MeshError('MESH_CA_KEY_MISSING', 'Rotating', { retryable: true }));
  await t.rejects(sign(), { code: 'MESH_GRPC_STATUS', details: { status: 14 } });
  answer = ok(['nonsense']);
  await t.rejects(sign(), { code: 'MESH_CERTIFICATE_INVALID' });
  token = undefined;
  await t.rejects(sign(), { code: 'MESH_CA_REFUSED' });
  t.match(server.logger.lines.at(-1)?.fields['error'], { message: /expired/ });
  token = TOKEN;
  const bad = createCaClient({
    clock,
    session: async () => session,
    token: async () => token,
    authority: 'ca',
  });
  const nobody = bad.sign('csr', 'spiffe://x' as SpiffeId, new AbortController().signal);
  await t.rejects(nobody, { code: 'MESH_CA_REFUSED' });
  const issued = server.calls.length;
  t.equal(issued, 4, 'a malformed identity never reaches the issuer');
  session.destroy();
  await server.close();
});
