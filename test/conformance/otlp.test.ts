/** Spans against a real OpenTelemetry collector, built once from its Go modules into `.cache/`; skipped without Go. */

import { spawn } from 'node:child_process';
import { connect } from 'node:net';
import { join } from 'node:path';

import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createOtlpPost } from '../../src/telemetry/otlp-post.ts';
import { createRegistry } from '../../src/telemetry/registry.ts';
import { createSeriesStore } from '../../src/telemetry/series-store.ts';
import { createSpanExporter } from '../../src/telemetry/span-exporter.ts';
import { freePort } from '../support/free-port.ts';
import { buildRequestRecord, buildTrace, buildTry } from '../telemetry/request-builder.ts';
import { findGoProgram } from './go-tool.ts';

const VERSION = 'v0.165.0';
const SOURCE = join(import.meta.dirname, 'otel-collector');

async function untilOpen(port: number): Promise<void> {
  for (let tries = 0; tries < 300; tries++) {
    const open = await new Promise<boolean>((done) => {
      const socket = connect(port, '127.0.0.1');
      socket.on('connect', () => done(socket.destroy() !== undefined));
      socket.on('error', () => done(false));
    });
    if (open) return;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error('the collector does not listen');
}

const tool = await findGoProgram(SOURCE, 'otelcol', VERSION);
const skip = 'reason' in tool ? tool.reason : false;

void t.test(
  'spans are understood by an OpenTelemetry collector',
  { skip, timeout: 0 },
  async (t) => {
    const port = await freePort();
    const config = {
      receivers: { otlp: { protocols: { http: { endpoint: `127.0.0.1:${port}` } } } },
      exporters: { debug: { verbosity: 'detailed' } },
      service: {
        telemetry: { metrics: { level: 'none' } },
        pipelines: { traces: { receivers: ['otlp'], exporters: ['debug'] } },
      },
    };
    const binary = 'binary' in tool ? tool.binary : '';
    const child = spawn(binary, ['--config', `yaml:${JSON.stringify(config)}`]);
    let output = '';
    const seen = new Promise<void>((done) => {
      const read = (chunk: Buffer): void => {
        output += chunk.toString();
        if (output.includes(`ID             : ${'e'.repeat(16)}`)) done();
      };
      child.stdout.on('data', read);
      child.stderr.on('data', read);
      child.on('exit', () => done());
    });
    t.teardown(() => child.kill('SIGKILL'));
    await untilOpen(port);
    const clock = createSystemClock();
    const store = createSeriesStore(clock);
    const exporter = createSpanExporter({
      clock,
      registry: createRegistry(store),
      resource: { 'service.name': 'waypoint.shop' },
      version: '1.2.3',
      post: createOtlpPost(clock, new URL(`http://127.0.0.1:${port}/v1/traces`)),
    });
    exporter.add(
      buildRequestRecord({
        trace: buildTrace({
          parentSpanId: 'd'.repeat(16),
          tries: [
            buildTry('c', { status: 0, error: 'MESH_CONNECT_FAILED' }),
            buildTry('e', { status: 503 }),
          ],
        }),
        startWallMs: 1_764_000_000_000,
        status: 503,
      }),
    );
    await exporter.flush();
    await seen;
    exporter.close();
    store.stop();
    const sent = store.families.get('nodemesh_traced_requests_sent_total');
    t.equal([...(sent?.series.values() ?? [])][0]?.value, 1, 'the collector took it');
    for (const line of [
      'service.name: Str(waypoint.shop)',
      'InstrumentationScope nodemesh 1.2.3',
      `Trace ID       : ${'a'.repeat(32)}`,
      `Parent ID      : ${'d'.repeat(16)}`,
      `ID             : ${'b'.repeat(16)}`,
      'Kind           : Server',
      `Parent ID      : ${'b'.repeat(16)}`,
      `ID             : ${'c'.repeat(16)}`,
      `ID             : ${'e'.repeat(16)}`,
      'error.type: Str(MESH_CONNECT_FAILED)',
      'Kind           : Client',
      'Name           : GET shop/cart',
      'Status code    : Error',
      'http.response.status_code: Int(503)',
      'http.request.resend_count: Int(1)',
      'Start time     : 2025-11-24 16:00:00 +0000 UTC',
    ]) {
      t.ok(output.includes(line), line);
    }
  },
);
