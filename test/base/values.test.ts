import t from 'tap';

import { MeshError } from '../../src/base/errors.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createNullRegistry } from '../../src/base/metrics.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import { fail, ok, unwrap } from '../../src/base/result.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';

void t.test('a result is a value or an error, and unwrap throws the latter', async (t) => {
  t.equal(unwrap(ok(7)), 7);
  const error = new MeshError('MESH_CONFIG_INVALID', 'Bad');
  t.same(fail(error), { ok: false, error });
  t.throws(() => unwrap(fail(error)), { code: 'MESH_CONFIG_INVALID' });
});

void t.test(
  'seeded random repeats itself, system random does not; both stay in [0, 1)',
  async (t) => {
    const draw = (seed: number): number[] => {
      const random = createSeededRandom(seed);
      return Array.from({ length: 1000 }, () => random.next());
    };
    const one = draw(42);
    t.same(one, draw(42));
    t.notSame(one, draw(43));
    const mean = one.reduce((sum, value) => sum + value, 0) / one.length;
    t.ok(
      one.every((value) => value >= 0 && value < 1) && Math.abs(mean - 0.5) < 0.05,
      `mean ${mean}`,
    );
    t.equal(createSeededRandom(1).bytes(16).byteLength, 16);
    const system = createSystemRandom();
    const value = system.next();
    t.ok(value >= 0 && value < 1);
    t.notSame(system.bytes(16), system.bytes(16));
  },
);

void t.test('null logger and registry take everything and do nothing', async (t) => {
  const logger = createNullLogger();
  for (const level of ['debug', 'info', 'warn', 'error'] as const) logger[level]('text', { a: 1 });
  t.equal(logger.child({ a: 1 }), logger);
  const registry = createNullRegistry();
  const options = { name: 'nodemesh_x_total', help: 'x' };
  registry.counter(options).add(1, ['a']);
  registry.gauge(options).set(1);
  registry.observedGauge(options, () => 1);
});
