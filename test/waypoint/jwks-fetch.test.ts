/** T91: fetching keys from somewhere that a user named. */

import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createJwksFetch, STRICT_FETCH } from '../../src/waypoint/jwks-fetch.ts';

const clock = createSystemClock();
const LENIENT = { plainHttp: true, loopback: true };
const refused = { code: 'MESH_JWKS_UNAVAILABLE' };

void t.test('T91 where keys may not come from', async (t) => {
  const strict = createJwksFetch(clock);
  const open = createJwksFetch(clock, { plainHttp: true, loopback: false });
  for (const url of [
    'http://issuer.test/keys',
    'file:///etc/passwd',
    'ftp://issuer.test/',
    'not a url',
    'https://user:pw@issuer.test/',
  ]) {
    await t.rejects(strict(url, 1_000), refused, url);
  }
  for (const host of [
    '127.0.0.1',
    '127.9.9.9',
    '2130706433',
    '0x7f.1',
    '0.0.0.0',
    '169.254.169.254',
    '224.0.0.1',
    '255.255.255.255',
    '[::1]',
    '[::]',
    '[::ffff:127.0.0.1]',
    '[::ffff:169.254.169.254]',
    '[fe80::1]',
    '[ff02::1]',
  ]) {
    await t.rejects(open(`http://${host}:9/`, 1_000), /forbidden/, host);
  }
  await t.rejects(open('http://localhost:9/', 1_000), /forbidden/, 'a name for this machine');
  t.strictSame(STRICT_FETCH, { plainHttp: false, loopback: false });
});

void t.test('T91 one bounded answer in bounded time, no redirect', async (t) => {
  let body = '{"keys":[]}';
  let status = 200;
  let silent = false;
  let requests = 0;
  const server = createServer((_, response) => {
    requests++;
    if (!silent) response.writeHead(status, { location: '/other' }).end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const fetch = createJwksFetch(clock, LENIENT);
  const url = `http://localhost:${port}/keys`;
  t.equal(await fetch(url, 1_000), body);
  status = 302;
  await t.rejects(fetch(url, 1_000), /redirects are not followed/);
  t.equal(requests, 2);
  status = 200;
  body = 'x'.repeat(65_537);
  await t.rejects(fetch(url, 5_000), /more than 65536 bytes/);
  silent = true;
  await t.rejects(fetch(url, 50), /no answer in time/);
  await t.rejects(createJwksFetch(clock, LENIENT)('http://127.0.0.1:1/', 1_000), refused);
});
