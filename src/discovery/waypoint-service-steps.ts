/**
 * `decodeWaypointService` in steps: thousands of rules take a tenth of a second. A large message is cut into small ones of
 * the same type, each with some of its rules, which the one strict decoder reads; then they are put together again.
 */

import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { Steps } from '../base/steps.ts';
import type { HttpRule, WaypointService } from '../core/route.ts';
import { invalidField } from './codec-fields.ts';
import { decodeWaypointService, RULES_MAX, WAYPOINT_SERVICE_BYTES_MAX } from './codec-route.ts';

/** What is smaller takes a millisecond or so. */
const WHOLE_MAX_BYTES = 16_384;
const RULES_PER_PART = 32;

// Field numbers of waypoint.proto.
const SERVICE_PORTS = 3;
const PORT_PRODUCER = 3;
const PORT_CONSUMERS = 4;
const ENTRY_KEY = 1;
const ENTRY_VALUE = 2;
const SET_HTTP = 1;

/** Where rules belong: the producer's set of a port, or that of a client namespace. */
interface CutSet {
  readonly portIndex: number;
  readonly consumer: string | undefined;
  readonly rules: readonly Uint8Array[];
}

interface CutService {
  /** Everything but the rules of HTTP. */
  readonly rest: Uint8Array;
  readonly sets: readonly CutSet[];
}

/** As `decodeWaypointService`. `wholeMaxBytes`: up to that size it is not cut. */
export function* decodeWaypointServiceInSteps(
  body: Uint8Array,
  wholeMaxBytes: number = WHOLE_MAX_BYTES,
): Steps<Result<WaypointService>> {
  if (body.length <= wholeMaxBytes || body.length > WAYPOINT_SERVICE_BYTES_MAX) {
    return decodeWaypointService(body);
  }
  let cut: CutService;
  try {
    cut = cutService(body);
  } catch (error) {
    // Said by the decoder in its own words.
    const whole = decodeWaypointService(body);
    return whole.ok ? fail(invalidField('ports', String(error))) : whole;
  }
  yield;
  const service = decodeWaypointService(cut.rest);
  if (!service.ok) return service;
  for (const { portIndex, consumer, rules } of cut.sets) {
    const port = service.value.ports[portIndex];
    const set = consumer === undefined ? port?.producer : port?.consumers.get(consumer);
    const decoded: HttpRule[] = [];
    for (let start = 0; start < rules.length; start += RULES_PER_PART) {
      const part = decodeWaypointService(partOf(rules.slice(start, start + RULES_PER_PART)));
      if (!part.ok) return part;
      decoded.push(...(part.value.ports[0]?.producer.http ?? []));
      yield;
    }
    if (set === undefined) return fail(lostSet());
    const http = [...set.http, ...decoded];
    if (http.length > RULES_MAX) {
      return fail(invalidField('http', `${http.length} entries, at most ${RULES_MAX}`));
    }
    // Nobody has seen it yet.
    Object.assign(set, { http });
  }
  return ok(service.value);
}

function lostSet(): MeshError {
  return invalidField('ports', 'rules without a place');
}

/** Rules as the producer's of a service that is called anything. */
function partOf(rules: readonly Uint8Array[]): Uint8Array {
  const writer = new BinaryWriter();
  writer.tag(1, WireType.LengthDelimited).string('x').tag(2, WireType.LengthDelimited).string('x');
  writer.tag(SERVICE_PORTS, WireType.LengthDelimited).fork();
  writer.tag(1, WireType.Varint).uint32(1);
  writer.tag(PORT_PRODUCER, WireType.LengthDelimited).fork();
  for (const rule of rules) writer.tag(SET_HTTP, WireType.LengthDelimited).bytes(rule);
  return writer.join().join().finish();
}

/** Calls `take` with each length-delimited field of that number, copies all others to `rest`. */
function cutFields(
  bytes: Uint8Array,
  rest: BinaryWriter,
  take: (field: number, content: Uint8Array) => boolean,
): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    const start = reader.pos;
    if (type === WireType.LengthDelimited) {
      const content = reader.bytes();
      if (take(field, content)) continue;
    } else {
      reader.skip(type, field);
    }
    rest.tag(field, type).raw(bytes.subarray(start, reader.pos));
  }
}

function cutSet(bytes: Uint8Array, rest: BinaryWriter): Uint8Array[] {
  const rules: Uint8Array[] = [];
  cutFields(bytes, rest, (field, content) => field === SET_HTTP && rules.push(content) > 0);
  return rules;
}

function cutService(body: Uint8Array): CutService {
  const sets: CutSet[] = [];
  const rest = new BinaryWriter();
  let portIndex = -1;
  const cutEntry = (entry: Uint8Array): void => {
    let consumer = '';
    let rules: Uint8Array[] = [];
    cutFields(entry, rest, (field, content) => {
      if (field === ENTRY_KEY) consumer = new TextDecoder().decode(content);
      if (field !== ENTRY_VALUE) return false;
      rest.tag(ENTRY_VALUE, WireType.LengthDelimited).fork();
      rules = cutSet(content, rest);
      rest.join();
      return true;
    });
    sets.push({ portIndex, consumer, rules });
  };
  cutFields(body, rest, (field, port) => {
    if (field !== SERVICE_PORTS) return false;
    portIndex++;
    rest.tag(SERVICE_PORTS, WireType.LengthDelimited).fork();
    cutFields(port, rest, (portField, content) => {
      if (portField !== PORT_PRODUCER && portField !== PORT_CONSUMERS) return false;
      rest.tag(portField, WireType.LengthDelimited).fork();
      if (portField === PORT_CONSUMERS) cutEntry(content);
      else sets.push({ portIndex, consumer: undefined, rules: cutSet(content, rest) });
      rest.join();
      return true;
    });
    rest.join();
    return true;
  });
  return { rest: rest.finish(), sets };
}
