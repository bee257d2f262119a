import t from 'tap';

import { compileRegex } from '../../src/base/regex.ts';

void t.test('matches the whole text', (t) => {
  const regex = compileRegex('/api/v[0-9]+');
  if (!regex.ok) throw regex.error;
  t.ok(regex.value.matches('/api/v12'));
  t.notOk(regex.value.matches('/api/v12/x'));
  t.notOk(regex.value.matches('x/api/v12'));
  t.end();
});

void t.test('T94 what RE2 does not have is refused with MESH_CONFIG_INVALID', (t) => {
  for (const pattern of [
    '(?=a)b',
    String.raw`(a)\1`,
    '[',
    '(x{1000}){1000}',
    'x'.repeat(1_025),
    'a{0,1000}b{0,1000}c{0,1000}',
  ]) {
    const regex = compileRegex(pattern);
    t.notOk(regex.ok, pattern.slice(0, 40));
    if (!regex.ok) t.equal(regex.error.code, 'MESH_CONFIG_INVALID');
  }
  t.end();
});

void t.test('T94 a pattern that never ends elsewhere ends here', { timeout: 20_000 }, (t) => {
  const regex = compileRegex('(a+)+$');
  if (!regex.ok) throw regex.error;
  t.notOk(regex.value.matches(`${'a'.repeat(8_000)}b`));
  t.end();
});
