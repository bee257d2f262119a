/** The access log: one line for each connection, with Istio's field names. */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createAccessLog } from '../../src/telemetry/access-log.ts';
import { createLogger } from '../../src/telemetry/logger.ts';
import { buildEdge, buildRecord } from './connection-builder.ts';

function linesOf(...records: Parameters<typeof buildRecord>[0][]): Record<string, unknown>[] {
  const raw: string[] = [];
  const writer = { write: (line: string) => void raw.push(line) };
  const log = createAccessLog(createLogger({ clock: createFakeClock(0), writer }));
  for (const parts of records) log.record(buildRecord(parts));
  return raw.map((line) => JSON.parse(line) as Record<string, unknown>);
}

t.test('access log has the fields of a connection through the tunnel', async (t) => {
  t.strictSame(linesOf({}), [
    {
      level: 'info',
      time: '1970-01-01T00:00:00.000Z',
      scope: 'access',
      'src.addr': '10.0.1.2:40000',
      'src.workload': 'web-v1',
      'src.namespace': 'shop',
      'src.identity': 'spiffe://cluster.local/ns/shop/sa/web',
      'src.cluster': 'Kubernetes',
      'dst.addr': '10.0.2.3:15008',
      'dst.hbone_addr': '10.0.2.3:80',
      'dst.service': 'cart.shop.svc.cluster.local',
      'dst.workload': 'cart-v1',
      'dst.namespace': 'shop',
      'dst.identity': 'spiffe://cluster.local/ns/shop/sa/cart',
      'dst.cluster': 'Kubernetes',
      direction: 'outbound',
      transport: 'hbone',
      bytes_sent: 100,
      bytes_recv: 2000,
      duration: '12ms',
      flag: '-',
      msg: 'connection complete',
    },
  ]);
});

t.test('access log leaves out what is unknown and identities that nobody proved', async (t) => {
  const [line] = linesOf({
    edge: buildEdge({ securityPolicy: 'unknown', destinationService: '' }),
    transport: 'plaintext',
    hboneAuthority: '',
  });
  for (const name of [
    'src.identity',
    'dst.identity',
    'dst.service',
    'dst.hbone_addr',
    'policy',
    'error',
  ]) {
    t.notHas(line, { [name]: /.*/ }, name);
  }
});

t.test('access log tells refused, failed and complete connections apart', async (t) => {
  const [denied, failed, complete] = linesOf(
    {
      opened: false,
      flag: 'DENY',
      policy: 'shop/no-db',
      errorCode: 'MESH_POLICY_DENIED',
      error: 'Denied',
    },
    { flag: 'RESET', errorCode: 'MESH_CONNECTION_RESET', error: 'Cannot read' },
    {},
  );
  t.match(denied, { level: 'warn', msg: 'connection failed', policy: 'shop/no-db', flag: 'DENY' });
  t.match(failed, { level: 'error', msg: 'connection complete', code: 'MESH_CONNECTION_RESET' });
  t.match(complete, { level: 'info', msg: 'connection complete' });
});

t.test('access log names the AUDIT policies on a line of their own', async (t) => {
  const [audit, access, ...more] = linesOf({ audited: ['shop/watch', 'shop/see'] });
  t.match(audit, {
    scope: 'audit',
    policies: ['shop/watch', 'shop/see'],
    'src.workload': 'web-v1',
  });
  t.match(access, { scope: 'access', msg: 'connection complete' });
  t.strictSame(more, []);
});
