/** That the flags are ones this V8 knows: it takes any other with a line on standard error. */

import { spawnSync } from 'node:child_process';

import t from 'tap';

import { TRAFFIC_FLAGS, tuneEngine } from '../../src/app/engine-flags.ts';

t.test('this V8 knows every flag', (t) => {
  const { stdout } = spawnSync(process.execPath, ['--v8-options'], { encoding: 'utf8' });
  for (const flag of TRAFFIC_FLAGS) {
    const name = flag.replace(/^--(?:no-)?/, '').replace(/=.*/, '');
    t.ok(stdout.includes(`\n  --${name} `), flag);
  }
  tuneEngine();
  t.end();
});
