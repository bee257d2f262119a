/** Peers known by what they say of themselves: remembered within bounds that no peer can use against the others. */

import t from 'tap';

import { createEdges } from '../../src/node/edges.ts';

const CLAIMED_MAX = 2048;
const claim = (name: string): string[] => [`k8s.pod.name=${name},service.name=${name}`];

t.test('a claim that is too long is read, not remembered, and pushes nothing out', (t) => {
  const edges = createEdges();
  const first = edges.claimedPeer(claim('first'), 'spiffe://p');
  t.match(first, { workload: 'first', principal: 'spiffe://p', canonicalName: 'first' });
  for (let at = 1; at < CLAIMED_MAX; at++) edges.claimedPeer(claim(`pod-${at}`), '');
  t.equal(edges.claimedPeer(claim('first'), 'spiffe://p'), first, 'all of them fit');

  const long = [...claim('long'), `x=${'y'.repeat(1024)}`];
  const stranger = edges.claimedPeer(long, '');
  t.match(stranger, { workload: 'long', canonicalName: 'long' });
  t.not(edges.claimedPeer(long, ''), stranger);
  t.equal(edges.claimedPeer(claim('first'), 'spiffe://p'), first);

  edges.claimedPeer(claim('one-more'), '');
  t.not(edges.claimedPeer(claim('first'), 'spiffe://p'), first, 'they start over');
  t.end();
});
