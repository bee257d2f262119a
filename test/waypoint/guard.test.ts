/** Policies and tokens on the data path: what reaches the application and what does not. */

import { createServer, request as httpRequest } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import type { Duplex } from 'node:stream';

import t, { type Test } from 'tap';

import type { HttpPolicy } from '../../src/core/http-policy.ts';
import { connectionForm } from '../../src/policy/connection-form.ts';
import { buildHttpPolicy, clause, texts } from '../policy/build-http.ts';
import { buildAuthentication, createSigner, ISSUER, keySet, sign } from './jwt-fixture.ts';
import { createRig, listen, type Rig } from './rig.ts';

interface Answer {
  readonly status: number;
  readonly challenge: string;
  readonly body: string;
}

function ask(
  connection: Duplex,
  path: string,
  headers: Record<string, string> = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({
      path,
      headers: { host: 'app', ...headers },
      createConnection: () => connection,
    });
    request.on('error', reject);
    request.on('response', (response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => void (body += chunk.toString()));
      response.on('end', () => {
        const challenge = response.headers['www-authenticate'] ?? '';
        resolve({ status: response.statusCode ?? 0, challenge, body });
      });
    });
    request.end();
  });
}

interface GuardRig extends Rig {
  /** Paths that the application has served. */
  readonly served: string[];
  get(path: string, headers?: Record<string, string>): Promise<Answer>;
}

async function createGuardRig(t: Test, policies: readonly HttpPolicy[]): Promise<GuardRig> {
  const served: string[] = [];
  const app = createServer((request, response) => {
    served.push(request.url ?? '');
    response.end(JSON.stringify(request.headers));
  });
  const port = await listen(app);
  const rig = await createRig({ apps: [{ name: 'app', ports: [port] }] });
  rig.guard.policies.apply(policies, [], true);
  t.teardown(async () => {
    await rig.close();
    app.closeAllConnections();
    app.close();
  });
  return {
    ...rig,
    served,
    get: async (path, headers) => ask(await rig.open('app'), path, headers),
  };
}

const NO_ADMIN = buildHttpPolicy('DENY', [clause('to', { paths: texts('/admin*') })], {
  key: 'shop/no-admin',
});

t.test(
  'a refused request never reaches the application, whatever its path looks like',
  async (t) => {
    const rig = await createGuardRig(t, [NO_ADMIN]);
    const paths = ['/admin', '/admin/x', '//admin', '/x/../admin', '/%61dmin', '/./admin;x=1'];
    for (const path of paths) {
      t.match(await rig.get(path), { status: 403, body: 'access denied\n' }, path);
    }
    t.match(await rig.get('/%2e%2e/admin'), { status: 400 });
    t.strictSame(rig.served, []);
    t.equal((await rig.get('/public')).status, 200);
    await rig.recorded(paths.length + 2);
    t.match(rig.records[0], {
      status: 403,
      flag: 'DENY',
      policy: 'shop/no-admin',
      errorCode: 'MESH_POLICY_DENIED',
      error: 'Denied by AuthorizationPolicy shop/no-admin (rule 0: to)',
      attempts: 0,
    });
  },
);

t.test(
  'the client is told why where the policy allows it; AUDIT and dry run are recorded',
  async (t) => {
    const audit = buildHttpPolicy('AUDIT', [], { key: 'shop/audit' });
    const tried = { ...NO_ADMIN, key: 'shop/try', dryRun: true };
    const rig = await createGuardRig(t, [{ ...NO_ADMIN, explain: true }, audit, tried]);
    t.match(await rig.get('/admin'), {
      status: 403,
      body: 'denied by AuthorizationPolicy shop/no-admin (rule 0: to)\n',
    });
    await rig.recorded(1);
    t.match(rig.records, [{ audited: ['shop/audit'], wouldDeny: ['shop/try'] }]);
  },
);

t.test('the identity of the tunnel decides', async (t) => {
  const only = buildHttpPolicy('ALLOW', [
    clause('from', { principals: texts('cluster.local/ns/shop/sa/other') }),
  ]);
  const rig = await createGuardRig(t, [only]);
  t.equal(
    (await rig.get('/', { 'x-nodemesh-client': 'spiffe://cluster.local/ns/shop/sa/other' })).status,
    403,
  );
  rig.guard.policies.apply(
    [
      {
        ...only,
        rules: [
          { clauses: [clause('from', { principals: texts('cluster.local/ns/shop/sa/web') })] },
        ],
      },
    ],
    [],
    false,
  );
  t.equal((await rig.get('/')).status, 200);
});

t.test('T91 tokens: verified before policy, refused with a challenge', async (t) => {
  const signer = await createSigner('one');
  const policy = buildHttpPolicy('ALLOW', [
    clause('from', { requestPrincipals: texts(`${ISSUER}/alice`) }),
  ]);
  const rig = await createGuardRig(t, [policy]);
  const rule = {
    jwks: keySet(signer),
    outputClaims: [{ header: 'x-user', path: ['sub'] }],
    forwardToken: false,
  };
  rig.guard.authenticator.apply([buildAuthentication(rule)], [], true);
  const nowS = Math.floor(Date.now() / 1_000);
  const bearer = async (claims: Record<string, unknown>): Promise<Record<string, string>> => ({
    authorization: `Bearer ${await sign(signer, nowS, claims)}`,
  });
  t.equal((await rig.get('/')).status, 403, 'nobody is not alice');
  t.equal((await rig.get('/', await bearer({ sub: 'bob' }))).status, 403);
  t.match(await rig.get('/', await bearer({ exp: nowS - 120 })), {
    status: 401,
    challenge: 'Bearer error="invalid_token"',
  });
  t.strictSame(rig.served, []);
  const answer = await rig.get('/', { ...(await bearer({})), 'x-user': 'root' });
  t.equal(answer.status, 200);
  const seen = JSON.parse(answer.body) as Record<string, string>;
  t.equal(seen['x-user'], 'alice', 'T89');
  t.equal(seen['authorization'], undefined);
  await rig.recorded(4);
  t.match(rig.records.at(-1), { requestPrincipal: `${ISSUER}/alice`, status: 200 });
});

t.test('a policy that comes while a request runs ends it', async (t) => {
  const app = createServer((_, response) => {
    response.write('begun');
  });
  const port = await listen(app);
  const rig = await createRig({ apps: [{ name: 'app', ports: [port] }] });
  t.teardown(async () => {
    await rig.close();
    app.closeAllConnections();
    app.close();
  });
  const connection = await rig.open('app');
  const ended = new Promise<string>((resolve) => {
    const request = httpRequest({
      path: '/admin',
      headers: { host: 'app' },
      createConnection: () => connection,
    });
    request.on('error', () => resolve('request failed'));
    request.on('response', (response) => {
      response.on('error', () => resolve('cut'));
      response.once('data', () => rig.guard.policies.apply([NO_ADMIN], [], false));
      response.on('end', () => resolve('complete'));
    });
    request.end();
  });
  t.not(await ended, 'complete', 'a cut answer never looks complete');
  await rig.recorded(1);
  t.match(rig.records, [{ flag: 'DENY', policy: 'shop/no-admin' }]);
});

t.test('bytes that are not HTTP do not get around an L7 policy', async (t) => {
  let received = 0;
  const app = createTcpServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      received += chunk.length;
      socket.end('served');
    });
  });
  const port = await listen(app);
  const rig = await createRig({ apps: [{ name: 'app', ports: [port] }] });
  t.teardown(async () => {
    await rig.close();
    app.close();
  });
  const send = async (): Promise<string> => {
    const connection = await rig.open('app');
    // Servers skip empty lines before a request (RFC 9112 section 2.2); who detects protocols sees none.
    connection.write('\r\n\u0001GET /admin HTTP/1.1\r\nhost: app\r\n\r\n');
    return new Promise((resolve) => {
      let text = '';
      connection.on('data', (chunk: Buffer) => void (text += chunk.toString()));
      connection.on('error', () => {});
      connection.on('end', () => connection.end());
      connection.on('close', () => resolve(text));
    });
  };
  t.equal(await send(), 'served');
  received = 0;
  rig.guard.policies.apply([NO_ADMIN], [], false);
  t.equal(await send(), '');
  t.equal(received, 0);
  await rig.recorded(2);
  t.match(rig.records.at(-1), { protocol: 'tcp', flag: 'DENY', policy: 'shop/no-admin' });
});

t.test('an L7 policy as a connection sees it is stricter, never weaker', async (t) => {
  const from = clause('from', { namespaces: texts('shop') });
  const to = clause(
    'to',
    { paths: texts('/a') },
    { destinationPorts: [80], methods: texts('GET') },
  );
  const ports = clause('to', { destinationPorts: [80], methods: texts('GET') });
  t.strictSame(connectionForm(buildHttpPolicy('ALLOW', [from, to])).rules, []);
  t.strictSame(connectionForm(buildHttpPolicy('ALLOW', [from])).rules, [{ clauses: [from] }]);
  t.strictSame(connectionForm(buildHttpPolicy('DENY', [from, to])).rules, [{ clauses: [from] }]);
  t.match(connectionForm(buildHttpPolicy('DENY', [ports])).rules, [
    { clauses: [{ label: 'to', matches: [{ destinationPorts: [80], methods: [] }] }] },
  ]);
});
