import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import t from 'tap';

import { readControllerConfig, readNodeConfig } from '../../src/app/config/settings.ts';
import { formatConfigurationTable } from '../../src/app/config/table.ts';

t.test('README shows exactly the settings there are', (t) => {
  const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');
  const [, shown = ''] = readme.split(/<!-- \/?configuration -->/);
  t.equal(shown.trim(), formatConfigurationTable());
  t.end();
});

t.test('all mistakes are reported at once, with variable, value and reason', (t) => {
  const given = new Map([
    ['NODEMESH_WORKERS', '0'],
    ['NODEMESH_RUN_DIR', 'relative'],
    ['NODEMESH_CONTROLLER', 'nowhere'],
  ]);
  const read = readNodeConfig((name) => given.get(name));
  if (read.ok) throw new Error('was accepted');
  t.equal(read.error.code, 'MESH_CONFIG_INVALID');
  t.match(read.error.message, 'NODEMESH_NODE_NAME is not set');
  t.match(read.error.message, 'NODEMESH_WORKERS="0": not a whole number from 1 to 64');
  t.match(read.error.message, 'NODEMESH_RUN_DIR="relative": not an absolute path');
  t.match(read.error.message, 'NODEMESH_CONTROLLER="nowhere": not of the form HOST:PORT');
  t.end();
});

t.test('defaults fill in what is not given', (t) => {
  const node = readNodeConfig((name) => (name === 'NODEMESH_NODE_NAME' ? 'node-a' : undefined));
  t.ok(node.ok && node.value.workers === 2 && node.value.drainS === 3600);
  t.ok(node.ok && Object.isFrozen(node.value));
  const required = new Map([
    ['NODEMESH_MANIFESTS', '/m'],
    ['NODEMESH_TOKENS_FILE', '/t'],
  ]);
  const controller = readControllerConfig((name) => required.get(name));
  t.ok(controller.ok && controller.value.port === 15_012);
  t.ok(controller.ok && controller.value.source === 'files');
  const inCluster = readControllerConfig(() => undefined);
  t.ok(inCluster.ok && inCluster.value.source === 'kubernetes', 'without manifests');
  const halfway = readControllerConfig((name) =>
    name === 'NODEMESH_MANIFESTS' ? '/m' : undefined,
  );
  t.match(!halfway.ok && halfway.error.message, 'NODEMESH_TOKENS_FILE', 'files need both');
  const bracketed = readNodeConfig((name) =>
    name === 'NODEMESH_CONTROLLER' ? '[fd00::1]:15012' : 'x',
  );
  t.notOk(bracketed.ok, 'other rows are wrong');
  t.end();
});
