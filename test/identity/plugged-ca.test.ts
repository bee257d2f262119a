/** The operator's authority, replaced: every certificate in use is trusted until it is replaced, too. */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { unwrap } from '../../src/base/result.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import type { CertificateAuthority } from '../../src/identity/ca.ts';
import { createKeyPair } from '../../src/identity/keys.ts';
import { verifyPeer } from '../../src/identity/peer.ts';
import { parsePem } from '../../src/identity/pem.ts';
import { createReplaceableCa, type PluggedCa } from '../../src/identity/plugged-ca.ts';
import { bundlePem } from '../../src/identity/trust-bundle.ts';
import { DAY_MS, plug, spiffeId, type Plugged } from './fixtures.ts';

const clock = createFakeClock();
const random = createSystemRandom();
const intermediate = (under?: Plugged): Plugged => plug(createKeyPair(), 'intermediate', under);

function open({ files }: Plugged, publishedRoots: string = ''): PluggedCa {
  const trustDomain = 'cluster.local';
  return unwrap(createReplaceableCa({ trustDomain, files, publishedRoots, clock, random }));
}

function issue(ca: CertificateAuthority): string {
  return unwrap(ca.issue(createKeyPair().publicKey, spiffeId('web'), DAY_MS)).chainPem.join('');
}

function trusts(ca: CertificateAuthority, chain: string): boolean {
  return verifyPeer(unwrap(parsePem('CERTIFICATE', chain)), ca.bundle, clock.wallMs()).ok;
}

t.test('a new root is trusted, then issues, and the old one goes last', async (t) => {
  const [first, second] = [intermediate(), intermediate()];
  const ca = open(first);
  const old = issue(ca);
  const { issuerId } = ca;
  t.same([ca.phase, ca.bundle.generation, bundlePem(ca.bundle).length], ['steady', 1, 1]);
  t.equal(unwrap(ca.replace(second.files)), true);
  t.same([ca.phase, ca.bundle.generation, bundlePem(ca.bundle).length], ['trust', 2, 2]);
  t.equal(ca.issuerId, issuerId, 'the old one issues');
  t.ok(trusts(open(first), issue(ca)), 'what nodes that know nothing yet can check');
  t.equal(unwrap(ca.replace(second.files)), false, 'told twice');
  await t.rejects(ca.retireOldRoot(), { code: 'MESH_CA_REFUSED' });

  await ca.switchIssuer();
  t.same([ca.phase, bundlePem(ca.bundle).length], ['issue', 2]);
  t.not(ca.issuerId, issuerId);
  const fresh = issue(ca);
  t.ok(trusts(open(second), fresh));
  t.ok(trusts(ca, old), 'certificates of the old one go on');
  await t.rejects(ca.switchIssuer(), { code: 'MESH_CA_REFUSED' });

  await ca.retireOldRoot();
  t.same([ca.phase, bundlePem(ca.bundle)], ['steady', bundlePem(open(second).bundle)]);
  t.equal(ca.bundle.generation, 3, 'twice the roots have changed');
  t.notOk(trusts(ca, old));
  t.ok(trusts(ca, fresh));
});

t.test('another authority below the same root issues at once', async (t) => {
  const first = intermediate();
  const ca = open(first);
  const { issuerId } = ca;
  t.equal(unwrap(ca.replace(intermediate(first).files)), true);
  t.same([ca.phase, ca.bundle.generation], ['steady', 1], 'the roots are the same');
  t.not(ca.issuerId, issuerId);
  t.ok(trusts(open(first), issue(ca)));
});

t.test('an operator who rotates by hand is followed, root by root', async (t) => {
  const [first, second] = [intermediate(), intermediate()];
  const both = first.files.rootCert + second.files.rootCert;
  const ca = open(first);
  unwrap(ca.replace({ ...first.files, rootCert: both }));
  t.equal(ca.phase, 'trust');
  await ca.switchIssuer();
  t.equal(ca.phase, 'steady', 'nothing is to be retired');
  const old = issue(ca);
  unwrap(ca.replace({ ...second.files, rootCert: both }));
  t.equal(ca.phase, 'steady');
  unwrap(ca.replace(second.files));
  t.equal(ca.phase, 'issue');
  t.ok(trusts(ca, old));
  await ca.retireOldRoot();
  t.notOk(trusts(ca, old));
});

t.test('one that is replaced again while it is not trusted yet never issues', async (t) => {
  const [first, second, third] = [intermediate(), intermediate(), intermediate()];
  const ca = open(first);
  const { issuerId } = ca;
  unwrap(ca.replace(second.files));
  unwrap(ca.replace(third.files));
  t.same([ca.phase, ca.issuerId, bundlePem(ca.bundle).length], ['trust', issuerId, 3]);
  unwrap(ca.replace(first.files));
  t.equal(ca.phase, 'trust', 'nor does a change of mind skip the wait');
  unwrap(ca.replace(third.files));
  await ca.switchIssuer();
  t.ok(trusts(open(third), issue(ca)));
  await ca.retireOldRoot();
  t.equal(bundlePem(ca.bundle).length, 1);
});

t.test('a restart in the middle goes on trusting what was published', async (t) => {
  const [first, second] = [intermediate(), intermediate()];
  const before = open(first);
  const old = issue(before);
  const ca = open(second, bundlePem(before.bundle).join(''));
  t.equal(ca.phase, 'issue');
  t.ok(trusts(ca, old));
  t.equal(open(second, bundlePem(open(second).bundle).join('')).phase, 'steady');
  t.equal(open(second, 'rubbish').phase, 'steady');
});

t.test('what does not fit together, or is too much, changes nothing', async (t) => {
  const first = intermediate();
  const ca = open(first);
  const { issuerId, bundle } = ca;
  const { files } = intermediate();
  t.match(ca.replace({ ...files, caKey: first.files.caKey }), {
    error: { code: 'MESH_CA_KEY_MISSING' },
  });
  const many = Array.from({ length: 7 }, () => intermediate().files.rootCert).join('');
  const rootCert = files.rootCert + many;
  t.match(ca.replace({ ...files, rootCert }), { error: { code: 'MESH_LIMIT_EXCEEDED' } });
  t.same([ca.phase, ca.issuerId, ca.bundle], ['steady', issuerId, bundle]);
});
