/**
 * Header lists changed as routes ask for: remove, then set, then add (Envoy's order). Framing fields and our own
 * fields cannot be changed by a route, whatever it says: the waypoint writes them.
 */

import type { HeaderField, HeaderList } from '../http/h2/contract.ts';
import type { HeaderChange } from '../core/route.ts';

/** Written by the codec for each hop, or by the waypoint about the client (T82, T89). */
const PROTECTED: ReadonlySet<string> = new Set([
  'connection',
  'content-length',
  'host',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);
const OWN_PREFIX = 'x-nodemesh-';

function isProtected(name: string): boolean {
  return PROTECTED.has(name) || name.startsWith(OWN_PREFIX) || name.startsWith(':');
}

/** Names of `change` may have any case. */
export function changeHeaders(headers: HeaderList, change: HeaderChange): HeaderList {
  let list: HeaderField[] = [...headers];
  for (const given of change.remove) {
    const name = given.toLowerCase();
    if (!isProtected(name)) list = list.filter(([key]) => key !== name);
  }
  for (const [given, value] of change.set) {
    const name = given.toLowerCase();
    if (!isProtected(name)) list = setHeader(list, name, value);
  }
  for (const [given, value] of change.add) {
    const name = given.toLowerCase();
    if (!isProtected(name)) addHeader(list, name, value);
  }
  return list;
}

/** The one field of this name, at the place of the first there was. */
export function setHeader(headers: HeaderList, name: string, value: string): HeaderField[] {
  const list: HeaderField[] = [];
  let isSet = false;
  for (const field of headers) {
    if (field[0] !== name) list.push(field);
    else if (!isSet) list.push([name, value]);
    isSet ||= field[0] === name;
  }
  if (!isSet) list.push([name, value]);
  return list;
}

/** Appends to the value there is (`a` becomes `a,b`), except of `set-cookie`, which cannot be joined. */
function addHeader(list: HeaderField[], name: string, value: string): void {
  const index = name === 'set-cookie' ? -1 : list.findLastIndex(([key]) => key === name);
  const before = list[index];
  if (before === undefined) list.push([name, value]);
  else list[index] = [name, `${before[1]},${value}`];
}
