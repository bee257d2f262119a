/** Real handshakes over loopback: who gets through, and what TLS 1.3 without resumption means on the wire. */

import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import tls from 'node:tls';

import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import type { Result } from '../../src/base/result.ts';
import { unwrap } from '../../src/base/result.ts';
import {
  createMeshSecureContext,
  discoveryClientOptions,
  discoveryServerOptions,
  tunnelClientOptions,
  tunnelServerOptions,
} from '../../src/identity/tls.ts';
import { authenticatePeer, type PeerIdentity } from '../../src/identity/peer.ts';
import { createKeyPair, privateKeyPem } from '../../src/identity/keys.ts';
import { formatPem } from '../../src/identity/pem.ts';
import { SecureContextCache } from '../../src/identity/secure-context-cache.ts';
import { createTrustBundle, type TrustBundle } from '../../src/identity/trust-bundle.ts';
import type { WorkloadCertificate } from '../../src/identity/workload-certificate.ts';
import { createTestCa, DAY_MS, issueTestCertificate, spiffeId } from './fixtures.ts';
import { buildCertificate, type CertificateShape } from './shapes.ts';

interface Outcome {
  /** What the server made of the client; undefined when its `secure` never came. */
  readonly client: Result<PeerIdentity> | undefined;
  /** What the client made of the server; undefined when its `secureConnect` never came. */
  readonly server: Result<PeerIdentity> | undefined;
  /** Application bytes the server saw. */
  readonly bytes: number;
  readonly clientError: string;
  readonly serverError: string;
  readonly sni: unknown;
  readonly group: string;
  readonly protocol: string | null;
  readonly cipher: string;
  readonly alpn: unknown;
  readonly session: Buffer | undefined;
  readonly isReused: boolean;
}

interface Ends {
  readonly serverContext: tls.SecureContext;
  readonly clientOptions: tls.ConnectionOptions;
  readonly serverBundle: TrustBundle;
  readonly clientBundle: TrustBundle;
}

/** One handshake; the client sends four bytes at once, as an eager peer does. */
async function handshake(ends: Ends, createProxy?: (port: number) => net.Server): Promise<Outcome> {
  const nowMs = createSystemClock().wallMs();
  const seen = {
    client: undefined as Result<PeerIdentity> | undefined,
    server: undefined as Result<PeerIdentity> | undefined,
    bytes: 0,
    clientError: '',
    serverError: '',
    sni: undefined as unknown,
    group: '',
    protocol: null as string | null,
    cipher: '',
    alpn: undefined as unknown,
    session: undefined as Buffer | undefined,
    isReused: false,
  };
  const listener = net.createServer((raw) => {
    raw.on('error', () => {});
    const socket = new tls.TLSSocket(raw, tunnelServerOptions(ends.serverContext));
    socket.on('error', (error) => {
      seen.serverError = error.message;
    });
    socket.on('data', (chunk) => {
      seen.bytes += chunk.length;
      socket.end('bye');
    });
    socket.on('secure', () => {
      seen.sni = (socket as { servername?: unknown }).servername;
      seen.alpn = socket.alpnProtocol;
      seen.isReused = socket.isSessionReused();
      seen.client = authenticatePeer(socket, ends.serverBundle, nowMs);
      if (!seen.client.ok) socket.destroy();
    });
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const proxy = createProxy?.((listener.address() as net.AddressInfo).port);
  if (proxy !== undefined) await once(proxy.listen(0, '127.0.0.1'), 'listening');
  const { port } = (proxy ?? listener).address() as net.AddressInfo;
  const raw = net.connect(port, '127.0.0.1');
  raw.on('error', () => {});
  const socket = tls.connect({ socket: raw, ...ends.clientOptions });
  socket.on('error', (error) => {
    seen.clientError = error.message;
  });
  socket.on('session', (session) => {
    seen.session = session;
  });
  socket.on('secureConnect', () => {
    const info = socket.getEphemeralKeyInfo() as { name?: string };
    seen.group = info.name ?? '';
    seen.protocol = socket.getProtocol();
    seen.cipher = socket.getCipher().name;
    seen.server = authenticatePeer(socket, ends.clientBundle, nowMs);
    if (seen.server.ok) socket.write('ping');
    else socket.destroy();
  });
  socket.on('data', () => {});
  await once(socket, 'close').catch(() => {});
  for (const server of [proxy, listener]) {
    if (server !== undefined) await once(server.close(), 'close');
  }
  return seen;
}

function ends(
  server: WorkloadCertificate,
  client: WorkloadCertificate,
  bundle: TrustBundle,
  clientBundle: TrustBundle = bundle,
): Ends {
  return {
    serverContext: createMeshSecureContext(server, bundle),
    clientOptions: tunnelClientOptions(createMeshSecureContext(client, clientBundle)),
    serverBundle: bundle,
    clientBundle,
  };
}

const ca = await createTestCa();
const web = issueTestCertificate(ca, spiffeId('web'));
const cart = issueTestCertificate(ca, spiffeId('cart'));

/** A certificate the CA would never issue, signed by a root of the test's own that is trusted. */
function shaped(shape: CertificateShape): {
  certificate: WorkloadCertificate;
  bundle: TrustBundle;
} {
  const keys = createKeyPair();
  const { rootPem, leaf } = buildCertificate(keys.publicKey, shape);
  const bundle = unwrap(createTrustBundle(1, new Map([['cluster.local', [rootPem]]])));
  const certificate: WorkloadCertificate = {
    identity: spiffeId('web'),
    privateKeyPem: privateKeyPem(keys.privateKey),
    chainPem: [formatPem('CERTIFICATE', leaf)],
    notBeforeMs: 0,
    notAfterMs: 0,
    serial: new X509Certificate(leaf).serialNumber,
  };
  return { certificate, bundle };
}

/** Handshake in which the server trusts `shape`'s root besides the CA's, and the client presents it. */
async function present(shape: CertificateShape): Promise<Outcome> {
  const { certificate, bundle } = shaped(shape);
  const roots = [...ca.bundle.domains.values(), ...bundle.domains.values()].flat();
  const both = unwrap(
    createTrustBundle(2, new Map([['cluster.local', roots.map(({ pem }) => pem)]])),
  );
  return handshake({
    serverContext: createMeshSecureContext(cart, both),
    clientOptions: tunnelClientOptions(createMeshSecureContext(certificate, both)),
    serverBundle: both,
    clientBundle: both,
  });
}

t.test('two workloads of one mesh learn each other in one TLS 1.3 handshake (T131)', async (t) => {
  const outcome = await handshake(ends(cart, web, ca.bundle));
  t.equal(outcome.client?.ok && outcome.client.value.id, spiffeId('web'));
  t.equal(outcome.server?.ok && outcome.server.value.id, spiffeId('cart'));
  t.equal(outcome.client?.ok && outcome.client.value.serial, web.serial);
  t.equal(outcome.bytes, 4);
  t.equal(outcome.protocol, 'TLSv1.3');
  t.match(outcome.cipher, /^TLS_AES_(128|256)_GCM_SHA/);
  t.equal(outcome.group, 'X25519MLKEM768');
  t.equal(outcome.alpn, 'h2');
});

t.test('a tunnel client sends no SNI (C10)', async (t) => {
  const outcome = await handshake(ends(cart, web, ca.bundle));
  t.equal(outcome.sni, false);
});

t.test('a peer without the post-quantum group still gets X25519 or P-256', async (t) => {
  for (const group of ['X25519', 'P-256']) {
    const client = { ...ends(cart, web, ca.bundle) };
    const context = tls.createSecureContext({
      key: web.privateKeyPem,
      cert: web.chainPem.join(''),
      ca: ca.bundle.domains.get('cluster.local')?.map(({ pem }) => pem),
      ecdhCurve: group,
    });
    const outcome = await handshake({ ...client, clientOptions: tunnelClientOptions(context) });
    t.equal(outcome.client?.ok, true, group);
  }
});

t.test('TLS 1.2 is refused by server and client (T131)', async (t) => {
  const good = ends(cart, web, ca.bundle);
  const roots = ca.bundle.domains.get('cluster.local')?.map(({ pem }) => pem);
  const old = (certificate: WorkloadCertificate): tls.SecureContext =>
    tls.createSecureContext({
      key: certificate.privateKeyPem,
      cert: certificate.chainPem.join(''),
      ca: roots,
      maxVersion: 'TLSv1.2',
    });
  const asClient = await handshake({ ...good, clientOptions: tunnelClientOptions(old(web)) });
  t.equal(asClient.client, undefined);
  t.equal(asClient.bytes, 0);
  const asServer = await handshake({ ...good, serverContext: old(cart) });
  t.equal(asServer.server, undefined);
});

t.test('a session offered again gets a full handshake (T130)', async (t) => {
  const good = ends(cart, web, ca.bundle);
  const first = await handshake(good);
  t.ok(first.session, 'the server names a session all the same');
  const session = first.session;
  const clientOptions = { ...good.clientOptions, ...(session === undefined ? {} : { session }) };
  const second = await handshake({ ...good, clientOptions });
  t.equal(second.client?.ok, true);
  t.equal(second.isReused, false);
});

t.test('a client without a certificate gets no further than TLS', async (t) => {
  const good = ends(cart, web, ca.bundle);
  const roots = ca.bundle.domains.get('cluster.local')?.map(({ pem }) => pem);
  const outcome = await handshake({
    ...good,
    clientOptions: tunnelClientOptions(tls.createSecureContext({ ca: roots })),
  });
  t.not(outcome.client?.ok, true);
  t.equal(outcome.bytes, 0);
});

t.test('a certificate of another CA is refused by both sides, no byte delivered', async (t) => {
  const other = await createTestCa();
  const stranger = issueTestCertificate(other, spiffeId('web'));
  const asClient = await handshake({
    ...ends(cart, web, ca.bundle),
    clientOptions: tunnelClientOptions(createMeshSecureContext(stranger, ca.bundle)),
  });
  t.equal(asClient.client?.ok, false);
  t.equal(asClient.client?.ok === false && asClient.client.error.code, 'MESH_CERTIFICATE_INVALID');
  t.equal(asClient.bytes, 0);
  const asServer = await handshake({
    ...ends(cart, web, ca.bundle),
    serverContext: createMeshSecureContext(stranger, ca.bundle),
  });
  t.equal(asServer.server, undefined);
  t.equal(asServer.bytes, 0);
});

t.test('a workload of an untrusted domain is refused (T11)', async (t) => {
  const other = await createTestCa({ trustDomain: 'other.example' });
  const stranger = issueTestCertificate(other, spiffeId('web', 'shop', 'other.example'));
  const outcome = await handshake({
    ...ends(cart, web, ca.bundle),
    clientOptions: tunnelClientOptions(createMeshSecureContext(stranger, ca.bundle)),
  });
  t.equal(outcome.client?.ok, false);
  t.equal(outcome.bytes, 0);
});

t.test('of two trusted domains none vouches for the other (T11)', async (t) => {
  const other = await createTestCa({ trustDomain: 'other.example' });
  const pems = (domain: TrustBundle): string[] =>
    [...domain.domains.values()].flat().map(({ pem }) => pem);
  const both = unwrap(
    createTrustBundle(
      1,
      new Map([
        ['cluster.local', pems(ca.bundle)],
        ['other.example', pems(other.bundle)],
      ]),
    ),
  );
  const honest = issueTestCertificate(other, spiffeId('web', 'shop', 'other.example'));
  const welcome = await handshake(ends(cart, honest, both));
  t.equal(welcome.client?.ok && welcome.client.value.identity.trustDomain, 'other.example');
  // The other domain's CA, gone rogue: opened as if it were ours, over its own roots and key.
  const rogue = await createTestCa();
  const swapped = unwrap(
    createTrustBundle(
      2,
      new Map([
        ['cluster.local', pems(ca.bundle)],
        ['other.example', pems(rogue.bundle)],
      ]),
    ),
  );
  const forged = issueTestCertificate(rogue, spiffeId('web'));
  const outcome = await handshake(ends(cart, forged, swapped));
  t.equal(outcome.client?.ok, false);
  t.equal(outcome.bytes, 0);
});

t.test('the verifier refuses what an X509-SVID must not be (1.6), no byte delivered', async (t) => {
  const baseline = await present({});
  t.equal(baseline.client?.ok, true, 'the unchanged shape is accepted');
  t.equal(baseline.bytes, 4);
  const two = [spiffeId('web'), spiffeId('db')] as const;
  const cases: readonly (readonly [string, CertificateShape])[] = [
    ['two URI names', { uris: two.map((id) => Buffer.from(id)) }],
    ['no name', { uris: [] }],
    ['a CA as leaf', { isCa: true }],
    ['expired', { notAfterMs: createSystemClock().wallMs() - 1000 }],
    ['not valid yet', { notBeforeMs: createSystemClock().wallMs() + DAY_MS }],
    ['no key usage', { keyUsage: 'absent' }],
    ['key usage not critical', { isKeyUsageCritical: false }],
    ['keyCertSign', { keyUsage: Buffer.from([2, 0x84]) }],
    ['cRLSign', { keyUsage: Buffer.from([1, 0x82]) }],
    ['only clientAuth', { purposes: ['1.3.6.1.5.5.7.3.2'] }],
    ['only serverAuth', { purposes: ['1.3.6.1.5.5.7.3.1'] }],
    ['names not critical', { areNamesCritical: false }],
    ['NUL in the name (C62)', { uris: [Buffer.from(`${spiffeId('web')}\0.evil`)] }],
    ['root path', { uris: [Buffer.from('spiffe://cluster.local')] }],
    ['foreign domain', { uris: [Buffer.from(spiffeId('web', 'shop', 'evil.example'))] }],
    ['identity only in otherName', { uris: [], otherName: Buffer.from(spiffeId('web')) }],
    ['unknown critical extension', { extraCritical: true }],
    ['extension twice', { isKeyUsageTwice: true }],
  ];
  for (const [name, shape] of cases) {
    const outcome = await present(shape);
    t.not(outcome.client?.ok, true, name);
    t.equal(outcome.bytes, 0, `${name}: no byte`);
  }
});

t.test('SecureContextCache makes a context once per certificate and bundle', (t) => {
  const cache = new SecureContextCache();
  const context = cache.contextFor(web, ca.bundle);
  t.equal(cache.contextFor(web, ca.bundle), context);
  t.not(cache.contextFor(web, { ...ca.bundle, generation: 99 }), context);
  t.equal(cache.size, 1);
  const renewed = issueTestCertificate(ca, spiffeId('web'));
  t.not(cache.contextFor(renewed, ca.bundle), context);
  t.equal(cache.size, 1);
  cache.forget(spiffeId('web'));
  t.equal(cache.size, 0);
  t.end();
});

t.test('handshakes never fail while the root is rotated (T129)', async (t) => {
  const rotating = await createTestCa();
  // Two nodes that hear of each step one after the other.
  const nodes = ['a', 'b'].map((account) => ({
    identity: spiffeId(account),
    bundle: rotating.bundle,
    certificate: issueTestCertificate(rotating, spiffeId(account)),
  }));
  let failures = 0;
  const check = async (): Promise<void> => {
    for (const [one, other] of [nodes, nodes.toReversed()]) {
      if (one === undefined || other === undefined) throw new Error('two nodes');
      const outcome = await handshake({
        serverContext: createMeshSecureContext(one.certificate, one.bundle),
        clientOptions: tunnelClientOptions(
          createMeshSecureContext(other.certificate, other.bundle),
        ),
        serverBundle: one.bundle,
        clientBundle: other.bundle,
      });
      if (outcome.client?.ok !== true || outcome.server?.ok !== true) failures++;
    }
  };
  const each = async (act: (node: (typeof nodes)[number]) => void): Promise<void> => {
    for (const node of nodes) {
      act(node);
      await check();
    }
  };
  await check();
  await rotating.beginRotation();
  await check();
  await each((node) => {
    node.bundle = rotating.bundle;
  });
  await rotating.switchIssuer();
  await check();
  await each((node) => {
    node.certificate = issueTestCertificate(rotating, node.identity);
  });
  await rotating.retireOldRoot();
  await check();
  await each((node) => {
    node.bundle = rotating.bundle;
  });
  t.equal(failures, 0);
  const stale = issueTestCertificate(ca, spiffeId('a'));
  const [first] = nodes;
  if (first === undefined) throw new Error('no node');
  const outcome = await handshake(ends(first.certificate, stale, first.bundle));
  t.equal(outcome.client?.ok, false, 'what no root vouches for is refused');
});

t.test('bytes that arrive together with a false certificate are not delivered', async (t) => {
  const good = ends(cart, web, ca.bundle);
  const stranger = issueTestCertificate(await createTestCa(), spiffeId('web'));
  // A proxy that holds what the client sends after its hello, so that Finished and data come in one read.
  const joined = (port: number): net.Server => {
    const proxy = net.createServer((raw) => {
      const onward = net.connect(port, '127.0.0.1');
      onward.on('error', () => raw.destroy());
      raw.on('error', () => onward.destroy());
      onward.pipe(raw);
      let held: Buffer | undefined;
      let chunks = 0;
      raw.on('data', (chunk: Buffer) => {
        if (++chunks === 1) onward.write(chunk);
        else if (held !== undefined) held = Buffer.concat([held, chunk]);
        else {
          held = chunk;
          setTimeout(() => onward.end(held ?? chunk), 20);
        }
      });
    });
    return proxy;
  };
  const honest = await handshake(good, joined);
  t.equal(honest.client?.ok, true);
  t.equal(honest.bytes, 4, 'the joint write works');
  const context = createMeshSecureContext(stranger, ca.bundle);
  const forged = await handshake({ ...good, clientOptions: tunnelClientOptions(context) }, joined);
  t.equal(forged.client?.ok, false);
  t.equal(forged.bytes, 0);
});

/** A connection to a controller; resolves with the error, or undefined when it stood. */
async function discover(
  server: tls.SecureContext,
  expected: Parameters<typeof discoveryClientOptions>[0]['expected'],
  rootsPem: readonly string[],
): Promise<string | undefined> {
  let bytes = 0;
  const listener = net.createServer((raw) => {
    raw.on('error', () => {});
    const socket = new tls.TLSSocket(raw, discoveryServerOptions(server));
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      bytes += chunk.length;
      socket.end();
    });
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const raw = net.connect((listener.address() as net.AddressInfo).port, '127.0.0.1');
  raw.on('error', () => {});
  const socket = tls.connect({ socket: raw, ...discoveryClientOptions({ rootsPem, expected }) });
  let failure: string | undefined;
  socket.on('error', (error) => {
    failure = error.message;
  });
  socket.on('secureConnect', () => socket.write('token'));
  socket.resume();
  await once(socket, 'close').catch(() => {});
  listener.close();
  await once(listener, 'close');
  if (failure !== undefined && bytes > 0) throw new Error('a token left before the check');
  return failure;
}

t.test('a node gives its token to the right controller only (T07)', async (t) => {
  const keys = createKeyPair();
  const controller = spiffeId('controller', 'nodemesh-system');
  const issued = unwrap(
    ca.issueServer(
      keys.publicKey,
      controller,
      { dnsNames: ['nodemesh.nodemesh-system.svc'], ips: ['10.0.0.9' as never] },
      DAY_MS,
    ),
  );
  const context = tls.createSecureContext({
    key: privateKeyPem(keys.privateKey),
    cert: issued.chainPem.join(''),
    minVersion: 'TLSv1.3',
  });
  const roots = ca.bundle.domains.get('cluster.local')?.map(({ pem }) => pem) ?? [];
  const host = (name: string) => ({ kind: 'host', host: name }) as const;
  t.equal(await discover(context, { kind: 'identity', identity: controller }, roots), undefined);
  t.equal(await discover(context, host('nodemesh.nodemesh-system.svc'), roots), undefined);
  t.equal(await discover(context, host('NODEMESH.nodemesh-system.svc'), roots), undefined);
  t.equal(await discover(context, host('10.0.0.9'), roots), undefined);
  const wrong = { kind: 'identity', identity: spiffeId('web') } as const;
  t.match(await discover(context, wrong, roots), /does not carry/);
  t.match(await discover(context, host('evil.svc'), roots), /does not carry/);
  t.match(await discover(context, host('10.0.0.10'), roots), /does not carry/);
  const other = await createTestCa();
  const foreign = other.bundle.domains.get('cluster.local')?.map(({ pem }) => pem) ?? [];
  t.type(await discover(context, host('10.0.0.9'), foreign), 'string', 'another root');
  const leaf = web.chainPem[0] ?? '';
  for (const rootsPem of [[], [''], ['rubbish'], [...roots, 'rubbish'], [leaf]]) {
    t.throws(() => discoveryClientOptions({ rootsPem, expected: wrong }), {
      code: 'MESH_CONFIG_INVALID',
    });
  }
});
