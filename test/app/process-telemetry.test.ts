/** The metrics port of a process opens in the end, whatever stood in its way at first. */

import { registerHooks } from 'node:module';
import { createServer, type AddressInfo } from 'node:net';

import t from 'tap';

import { createProcessTelemetry } from '../../src/app/process-telemetry.ts';
import { createFakeClock } from '../../src/base/clock.ts';

t.test('a load that failed and a port that is taken are tried again', async (t) => {
  const loads: string[] = [];
  const hooks = registerHooks({
    load(url, context, next) {
      if (url.endsWith('/metrics-server.ts') && loads.push(url) === 1) {
        throw new Error('no descriptor');
      }
      return next(url, context);
    },
  });
  t.teardown(() => hooks.deregister());
  const predecessor = createServer();
  await new Promise<void>((resolve) => predecessor.listen(0, '::', resolve));
  const { port } = predecessor.address() as AddressInfo;
  const clock = createFakeClock();
  const telemetry = createProcessTelemetry(clock, 'agent', 'error', {});
  t.teardown(() => telemetry.close());
  telemetry.serveMetrics(port);
  while (loads.length < 2) await clock.advance(500);
  await new Promise((resolve) => predecessor.close(resolve));
  let text = '';
  while (text === '') {
    await clock.advance(500);
    text = await fetch(`http://127.0.0.1:${port}/metrics`).then(
      (response) => response.text(),
      () => '',
    );
  }
  t.match(text, /process_resident_memory_bytes/);
});
