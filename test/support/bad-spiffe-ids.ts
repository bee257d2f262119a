/**
 * At least 200 texts that are no workload identity (T04): for the parser and for each of its users. Entries are
 * made from lists, so that a trick is tried in every part of an identity.
 */

/** In any part these make the whole malformed. */
const BAD_NAMES: readonly string[] = [
  '',
  '.',
  '..',
  'A',
  'Web',
  'wEb',
  'we b',
  ' web',
  'web ',
  'web\t',
  'web\n',
  'web\r\n',
  '\u0000',
  'web\u0000',
  'web\u0000.evil',
  '-web',
  'web-',
  '.web',
  'web.',
  'a..b',
  '%77eb',
  'web%00',
  'web%2e',
  'web%2f..',
  '%2e%2e',
  'web?x=1',
  'web?',
  'web#f',
  'web#',
  'web:80',
  'user@web',
  'web@',
  'web;v=1',
  'web,db',
  'web*',
  '*',
  'web\\',
  'web\\..',
  '"web"',
  "'web'",
  '<web>',
  'web|',
  'web&',
  'web=',
  'web+',
  'web$',
  'web!',
  'web~',
  'web^',
  'web`',
  '(web)',
  '[web]',
  '{web}',
  'w\u00e9b',
  'we\u0301b',
  '\u0430dmin',
  'ad\u200bmin',
  'w\uff45b',
  'a\u3002b',
  'a\uff0eb',
  '\ud800',
  '\u202eweb',
  '\ufeffweb',
  '\u007f',
  '\u0080',
];

/** Whole texts that are malformed in their own way. */
const BAD_WHOLES: readonly string[] = [
  '',
  ' ',
  '/',
  'spiffe',
  'spiffe:',
  'spiffe:/',
  'spiffe://',
  'spiffe:///',
  'spiffe://cluster.local',
  'spiffe://cluster.local/',
  'spiffe://cluster.local/ns',
  'spiffe://cluster.local/ns/shop',
  'spiffe://cluster.local/ns/shop/sa',
  'spiffe://cluster.local/ns/shop/web',
  'spiffe://cluster.local/ns/shop/sa/web/',
  'spiffe://cluster.local/ns/shop/sa/web/..',
  'spiffe://cluster.local/ns/shop/sa/web/extra',
  'spiffe://cluster.local/ns/shop/../sa/web',
  'spiffe://cluster.local/../ns/shop/sa/web',
  'spiffe://cluster.local/./ns/shop/sa/web',
  'spiffe://cluster.local//ns/shop/sa/web',
  'spiffe://cluster.local/ns//shop/sa/web',
  'spiffe://cluster.local/ns/shop//sa/web',
  'spiffe://cluster.local/ns/shop/sa//web',
  'spiffe://cluster.local/ns/shop/sa/web//',
  'spiffe:///ns/shop/sa/web',
  'spiffe:////ns/shop/sa/web',
  'spiffe:/cluster.local/ns/shop/sa/web',
  'spiffe:cluster.local/ns/shop/sa/web',
  'SPIFFE://cluster.local/ns/shop/sa/web',
  'Spiffe://cluster.local/ns/shop/sa/web',
  ' spiffe://cluster.local/ns/shop/sa/web',
  '\tspiffe://cluster.local/ns/shop/sa/web',
  '\u0000spiffe://cluster.local/ns/shop/sa/web',
  '\ufeffspiffe://cluster.local/ns/shop/sa/web',
  'spiffe ://cluster.local/ns/shop/sa/web',
  'http://cluster.local/ns/shop/sa/web',
  'https://cluster.local/ns/shop/sa/web',
  'spiffe+x://cluster.local/ns/shop/sa/web',
  '//cluster.local/ns/shop/sa/web',
  'cluster.local/ns/shop/sa/web',
  '/ns/shop/sa/web',
  'spiffe://cluster.local/NS/shop/sa/web',
  'spiffe://cluster.local/ns/shop/SA/web',
  'spiffe://cluster.local/sa/web/ns/shop',
  'spiffe://cluster.local/n%73/shop/sa/web',
  'spiffe://cluster.local/ns/shop/s%61/web',
  'spiffe://cluster.local%2fns/shop/sa/web',
  'spiffe://cluster.local\\ns\\shop\\sa\\web',
  'spiffe:\\\\cluster.local\\ns\\shop\\sa\\web',
  'spiffe://cluster.local/ns/shop/sa/web, spiffe://cluster.local/ns/shop/sa/db',
  'URI:spiffe://cluster.local/ns/shop/sa/web',
  'spiffe://cluster.local/spiffe/ns/shop/sa/web',
  'spiffe://[::1]/ns/shop/sa/web',
  'spiffe://cluster.local/cluster/c1/ns/shop/sa/web',
  'urn:spiffe:cluster.local:ns:shop:sa:web',
];

export function badSpiffeIds(): string[] {
  const bad = new Set<string>(BAD_WHOLES);
  for (const name of BAD_NAMES) {
    bad.add(`spiffe://${name}/ns/shop/sa/web`);
    bad.add(`spiffe://cluster.local/ns/${name}/sa/web`);
    bad.add(`spiffe://cluster.local/ns/shop/sa/${name}`);
  }
  // A namespace has no dots and no underscores; an account no underscores.
  bad.add('spiffe://cluster.local/ns/a.b/sa/web');
  bad.add('spiffe://cluster.local/ns/a_b/sa/web');
  bad.add('spiffe://cluster.local/ns/shop/sa/a_b');
  bad.add(`spiffe://${'d'.repeat(256)}/ns/shop/sa/web`);
  bad.add(`spiffe://cluster.local/ns/${'n'.repeat(64)}/sa/web`);
  bad.add(`spiffe://cluster.local/ns/shop/sa/${'s'.repeat(254)}`);
  bad.add(`spiffe://cluster.local/ns/shop/sa/${'s'.repeat(2048)}`);
  bad.add(`spiffe://cluster.local/ns/shop/sa/web${'/x'.repeat(1000)}`);
  return [...bad];
}
