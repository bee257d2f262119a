import { createServer } from 'node:http';

import t, { type Test } from 'tap';

import { ask } from './ask.ts';
import { createRig, listen, type Rig } from './rig.ts';

async function echo(t: Test, tunnelled: boolean): Promise<Rig> {
  const app = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => void (body += chunk.toString()));
    request.on('end', () =>
      response.end(
        JSON.stringify({
          method: request.method,
          url: request.url,
          headers: request.headers,
          body,
        }),
      ),
    );
  });
  const port = await listen(app, tunnelled ? '0.0.0.0' : '127.0.0.1');
  const rig = await createRig({ apps: [{ name: 'app', ports: [port], tunnelled }] });
  t.teardown(async () => {
    await rig.close();
    app.closeAllConnections();
    app.close();
  });
  return rig;
}

for (const tunnelled of [false, true]) {
  t.test(`a request passes and is recorded once, tunnelled: ${tunnelled}`, async (t) => {
    const rig = await echo(t, tunnelled);
    const answer = await ask(await rig.open('app'), {
      method: 'POST',
      path: '/a//b/../c?x=1',
      headers: {
        'x-nodemesh-client': 'spiffe://evil',
        'x-forwarded-for': '1.2.3.4',
        'x-own': 'kept',
      },
      body: 'hello',
    });
    t.equal(answer.status, 200);
    const seen = JSON.parse(answer.body) as {
      url: string;
      headers: Record<string, string>;
      body: string;
    };
    t.equal(seen.url, '/a/c?x=1', 'the normalised path goes upstream');
    t.equal(seen.body, 'hello');
    t.equal(seen.headers['x-own'], 'kept');
    t.equal(seen.headers['x-nodemesh-client'], 'spiffe://cluster.local/ns/shop/sa/web', 'T89');
    t.equal(seen.headers['x-forwarded-for'], '127.0.0.1', 'T89');
    t.match(seen.headers['x-request-id'], /^[0-9a-f-]{36}$/);
    await rig.recorded(1);
    t.match(rig.records, [
      {
        status: 200,
        method: 'POST',
        path: '/a/c',
        requestBytes: 5,
        flag: '-',
        attempts: 1,
      },
    ]);
  });
}
