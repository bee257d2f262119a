/** The one SPIFFE parser: what it takes, and the table of what it must not (T04). */

import fc from 'fast-check';
import t from 'tap';

import {
  formatIdentity,
  isNamespaceName,
  isServiceAccountName,
  isTrustDomain,
  parseIdentity,
  SPIFFE_ID_MAX_BYTES,
} from '../../src/core/identity.ts';
import { badSpiffeIds } from '../support/bad-spiffe-ids.ts';

/** Any UTF-16 code units, lone surrogates among them. */
function anyText(maxLength: number): fc.Arbitrary<string> {
  return fc.uint16Array({ maxLength }).map((units) => String.fromCharCode(...units));
}

t.test('parseIdentity takes the identities that Kubernetes can make', (t) => {
  const good = [
    'spiffe://cluster.local/ns/shop/sa/web',
    'spiffe://cluster.local/ns/default/sa/default',
    'spiffe://td/ns/a/sa/b',
    'spiffe://1.2.3.4/ns/0/sa/0',
    'spiffe://my_domain-1.example/ns/kube-system/sa/a.b-c.d',
    `spiffe://${'d'.repeat(255)}/ns/${'n'.repeat(63)}/sa/${'s'.repeat(253)}`,
  ];
  for (const text of good) {
    const result = parseIdentity(text);
    t.ok(result.ok, text.slice(0, 80));
    if (result.ok) t.equal(formatIdentity(result.value), text);
  }
  t.end();
});

t.test('parseIdentity refuses each of at least 200 malformed identities (T04)', (t) => {
  const bad = badSpiffeIds();
  t.ok(bad.length >= 200, `${bad.length} entries`);
  t.equal(new Set(bad).size, bad.length, 'no entry twice');
  for (const text of bad) {
    const result = parseIdentity(text);
    const name = JSON.stringify(text.slice(0, 90));
    if (result.ok) t.fail(`accepted ${name}`);
    else if (result.error.code !== 'MESH_IDENTITY_INVALID') t.fail(`${result.error.code} ${name}`);
    else if (result.error.message.length > 700) t.fail(`long message for ${name}`);
  }
  t.end();
});

t.test('parseIdentity refuses 5 MB in no time (T04)', (t) => {
  for (const filler of ['a', '/', '-', '.', '%', '\u0000']) {
    t.equal(parseIdentity(`spiffe://cluster.local/ns/${filler.repeat(5_000_000)}`).ok, false);
  }
  const slow = `spiffe://cluster.local/ns/a/sa/${'a-'.repeat(900)}`;
  t.ok(slow.length < SPIFFE_ID_MAX_BYTES);
  t.equal(parseIdentity(slow).ok, false);
  t.end();
});

t.test('whatever parseIdentity takes is its own canonical text', (t) => {
  const piece = fc.oneof(
    fc.constantFrom(
      'spiffe://',
      'spiffe:',
      '//',
      '/',
      'ns',
      'sa',
      '/ns/',
      '/sa/',
      'a',
      'cluster.local',
    ),
    fc.constantFrom(
      '..',
      '.',
      '%2e',
      '%2f',
      'A',
      '\u0000',
      '?',
      '#',
      ':',
      '@',
      '\n',
      ' ',
      '\u00e9',
      '-',
    ),
    anyText(4),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
      const text = pieces.join('');
      const result = parseIdentity(text);
      if (!result.ok) return result.error.code === 'MESH_IDENTITY_INVALID';
      return formatIdentity(result.value) === text && /^[\x21-\x7e]+$/.test(text);
    }),
    { numRuns: 500 },
  );
  t.end();
});

t.test('an accepted identity with one character changed is refused or is another identity', (t) => {
  const text = 'spiffe://cluster.local/ns/shop/sa/web';
  fc.assert(
    fc.property(fc.nat(text.length - 1), anyText(2), (at, replacement) => {
      const changed = text.slice(0, at) + replacement + text.slice(at + 1);
      const result = parseIdentity(changed);
      return !result.ok || changed === text || formatIdentity(result.value) !== text;
    }),
    { numRuns: 2000 },
  );
  t.end();
});

t.test('every identity made of valid names is read back', (t) => {
  const label = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$/);
  fc.assert(
    fc.property(label, label, label, (trustDomain, namespace, serviceAccount) => {
      const result = parseIdentity(formatIdentity({ trustDomain, namespace, serviceAccount }));
      return (
        result.ok &&
        result.value.trustDomain === trustDomain &&
        result.value.namespace === namespace &&
        result.value.serviceAccount === serviceAccount
      );
    }),
  );
  t.end();
});

t.test('names are judged one by one as in the whole', (t) => {
  t.equal(isTrustDomain('cluster.local'), true);
  t.equal(isTrustDomain('a..b'), false);
  t.equal(isTrustDomain('d'.repeat(256)), false);
  t.equal(isNamespaceName('n'.repeat(63)), true);
  t.equal(isNamespaceName('n'.repeat(64)), false);
  t.equal(isNamespaceName('a.b'), false);
  t.equal(isServiceAccountName('a.b'), true);
  t.equal(isServiceAccountName('s'.repeat(254)), false);
  t.end();
});
