import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createNullLogger, type LogFields } from '../../src/base/logger.ts';
import type { IpAddress } from '../../src/core/address.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { createHandshakeLog } from '../../src/node/handshake-log.ts';

t.test('G17 failed handshakes are seen, and cannot fill the log', async (t) => {
  const clock = createFakeClock();
  const lines: LogFields[] = [];
  let counted = 0;
  const logger = {
    ...createNullLogger(),
    warn: (_: string, fields: LogFields = {}) => void lines.push(fields),
  };
  const log = createHandshakeLog(clock, logger, (code) => {
    if (code === 'MESH_TUNNEL_HANDSHAKE_FAILED') counted++;
  });
  const fail = (): void =>
    log.failed(
      'pod-1' as PodUid,
      { ip: '10.0.0.1' as IpAddress, port: 4711 },
      new MeshError('MESH_TUNNEL_HANDSHAKE_FAILED', 'Tunnel handshake failed: no certificate'),
    );
  for (let count = 0; count < 10_000; count++) fail();
  t.equal(lines.length, 1);
  t.match(lines[0], { source: '10.0.0.1:4711', code: 'MESH_TUNNEL_HANDSHAKE_FAILED', notShown: 0 });
  await clock.advance(10_000);
  fail();
  t.equal(lines.length, 2);
  t.equal(lines[1]?.['notShown'], 9999);
  t.equal(counted, 10_001, 'every one is counted');
});
