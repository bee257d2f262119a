/**
 * The two messages of a delta stream as plain values: `DeltaDiscoveryRequest` and `DeltaDiscoveryResponse`.
 *
 * - Decoding runs in time slices, checks every bound and throws `MESH_MESSAGE_INVALID`; resource bodies are
 *   copied, so a kept resource does not hold the message it came in.
 * - Encoding knows its size first, so that one message can be sent in pieces without being built whole.
 */

import { create, fromBinary, toBinary, type JsonObject } from '@bufbuild/protobuf';
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';

import { MeshError } from '../base/errors.ts';
import type { TimeSlice } from '../base/time-slice.ts';
import { invalidField, NAME_CHARS_MAX, RESOURCE_BYTES_MAX } from './codec-fields.ts';
import { NodeSchema } from './gen/envoy/service/discovery/v3/ads_pb.ts';
import { StatusSchema } from './gen/google/rpc/status_pb.ts';
import { RejectionSchema } from './gen/nodemesh/v1/node_pb.ts';
import { TYPE_URL } from './type-urls.ts';
import type { WireResource } from './wire-resource.ts';
import { delimitedBytes, WireWriter } from './wire-writer.ts';

/** The method that carries them. */
export const DISCOVERY_PATH =
  '/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources';

/** One resource that was not accepted. */
export interface Rejection {
  /** Empty when a foreign client did not say it apart from the reason. */
  readonly name: string;
  readonly reason: string;
}

/** What a client says of itself: a claim, never a proof. */
export interface NodeClaim {
  readonly id: string;
  readonly cluster: string;
  /** The text values of its metadata. */
  readonly metadata: ReadonlyMap<string, string>;
}

export interface DeltaRequest {
  readonly node?: NodeClaim;
  readonly typeUrl: string;
  readonly subscribe: readonly string[];
  readonly unsubscribe: readonly string[];
  readonly initialVersions: ReadonlyMap<string, string>;
  readonly responseNonce: string;
  /** Present: a NACK. */
  readonly rejections?: readonly Rejection[];
  readonly reports: readonly WireResource[];
  /** Above 0: this request carries reports and nothing else. */
  readonly reportSequence: number;
  readonly acceptsPartial: boolean;
}

export interface DeltaResponse {
  readonly typeUrl: string;
  readonly systemVersion: string;
  readonly nonce: string;
  readonly resources: readonly WireResource[];
  readonly removed: readonly string[];
  /** Resources that could not be read at all; the name is empty when that is why. */
  readonly malformed: readonly Rejection[];
  /** Above 0: only acknowledges reports. */
  readonly reportSequence: number;
  readonly partial: boolean;
}

/** Entries of one list of one message; a whole cluster's names fit. */
export const LIST_ENTRIES_MAX = 1_000_000;
const RESOURCE_NAMES_MAX = 2_000;
/** Rejections named in one NACK; the rest is a count. */
const REJECTIONS_MAX = 100;
const REASON_CHARS_MAX = 1_000;
const METADATA_MAX = 200;

const EMPTY: Pick<DeltaRequest, 'subscribe' | 'unsubscribe' | 'initialVersions' | 'reports'> = {
  subscribe: [],
  unsubscribe: [],
  initialVersions: new Map(),
  reports: [],
};

/** A request with nothing but what is given. */
export function createDeltaRequest(
  parts: Partial<DeltaRequest> & Pick<DeltaRequest, 'typeUrl'>,
): DeltaRequest {
  return { ...EMPTY, responseNonce: '', reportSequence: 0, acceptsPartial: false, ...parts };
}

export async function encodeDeltaRequest(request: DeltaRequest, slice: TimeSlice): Promise<Buffer> {
  const writer = new WireWriter();
  if (request.node !== undefined) {
    const { id, cluster, metadata } = request.node;
    const node = create(NodeSchema, { id, cluster, metadata: Object.fromEntries(metadata) });
    writer.bytes(1, toBinary(NodeSchema, node));
  }
  writer.text(2, request.typeUrl);
  for (const name of request.subscribe) writer.text(3, name);
  for (const name of request.unsubscribe) writer.text(4, name);
  for (const [name, version] of request.initialVersions) {
    const size =
      delimitedBytes(1, Buffer.byteLength(name)) + delimitedBytes(2, Buffer.byteLength(version));
    writer.head(5, size);
    writer.text(1, name);
    writer.text(2, version);
    if (slice.spent) await slice.yield();
  }
  if (request.responseNonce !== '') writer.text(6, request.responseNonce);
  if (request.rejections !== undefined) writer.bytes(7, encodeRejections(request.rejections));
  for (const report of request.reports) writeResource(writer, 1000, request.typeUrl, report, true);
  if (request.reportSequence > 0) writer.uint(1001, request.reportSequence);
  if (request.acceptsPartial) writer.uint(1002, 1);
  return writer.finish();
}

/** INVALID_ARGUMENT with the reasons as text, for anyone, and as details, for us. */
function encodeRejections(rejections: readonly Rejection[]): Uint8Array {
  const shown = rejections.slice(0, REJECTIONS_MAX);
  const cut = shown.map(({ name, reason }) => ({
    name,
    reason: reason.slice(0, REASON_CHARS_MAX),
  }));
  const lines = cut.map(({ name, reason }) => `${name}: ${reason}`);
  if (rejections.length > shown.length) lines.push(`and ${rejections.length - shown.length} more`);
  const details = cut.map((rejection) => ({
    typeUrl: TYPE_URL.rejection,
    value: toBinary(RejectionSchema, create(RejectionSchema, rejection)),
  }));
  return toBinary(
    StatusSchema,
    create(StatusSchema, { code: 3, message: lines.join('; '), details }),
  );
}

/** What a response says besides its resources; comes first on the wire. */
export function encodeResponseHead(
  head: Omit<DeltaResponse, 'resources' | 'removed' | 'malformed'>,
  removed: readonly string[],
): Buffer {
  const writer = new WireWriter();
  writer.text(1, head.systemVersion);
  writer.text(4, head.typeUrl);
  if (head.nonce !== '') writer.text(5, head.nonce);
  for (const name of removed) writer.text(6, name);
  if (head.reportSequence > 0) writer.uint(1000, head.reportSequence);
  if (head.partial) writer.uint(1001, 1);
  return writer.finish();
}

/** Bytes that `encodeResources` will write for one resource; `own`: with the fields only we know. */
export function resourceFieldBytes(typeUrl: string, resource: WireResource, own: boolean): number {
  return delimitedBytes(2, measureResource(typeUrl, resource, own).total);
}

/** Some resources of a response; such pieces, one after the other, make one message. */
export function encodeResources(
  typeUrl: string,
  resources: readonly WireResource[],
  own: boolean,
): Buffer {
  const writer = new WireWriter(
    resources.reduce((sum, resource) => sum + resource.body.length + 256, 64),
  );
  for (const resource of resources) writeResource(writer, 2, typeUrl, resource, own);
  return writer.finish();
}

function measureResource(
  typeUrl: string,
  resource: WireResource,
  own: boolean,
): { total: number; any: number } {
  const texts = (field: number, values: readonly string[]): number =>
    values.reduce((sum, value) => sum + delimitedBytes(field, Buffer.byteLength(value)), 0);
  const any = texts(1, [typeUrl]) + delimitedBytes(2, resource.body.length);
  const total =
    texts(1, [resource.version]) +
    delimitedBytes(2, any) +
    texts(3, [resource.name]) +
    texts(4, resource.aliases) +
    (own ? texts(1000, resource.groups) : 0);
  return { total, any };
}

function writeResource(
  writer: WireWriter,
  field: number,
  typeUrl: string,
  resource: WireResource,
  own: boolean,
): void {
  const { total, any } = measureResource(typeUrl, resource, own);
  writer.head(field, total);
  writer.text(1, resource.version);
  writer.head(2, any);
  writer.text(1, typeUrl);
  writer.bytes(2, resource.body);
  writer.text(3, resource.name);
  for (const alias of resource.aliases) writer.text(4, alias);
  if (own) for (const group of resource.groups) writer.text(1000, group);
}

export async function decodeDeltaRequest(
  bytes: Uint8Array,
  slice: TimeSlice,
): Promise<DeltaRequest> {
  const subscribe: string[] = [];
  const unsubscribe: string[] = [];
  const initialVersions = new Map<string, string>();
  const reports: WireResource[] = [];
  let node: NodeClaim | undefined;
  let rejections: Rejection[] | undefined;
  let [typeUrl, responseNonce, reportSequence, acceptsPartial] = ['', '', 0, false];
  await walk(bytes, slice, REQUEST_VARINTS, (field, reader) => {
    if (field === 1) node = readNode(reader.bytes());
    else if (field === 2) typeUrl = readName(reader);
    else if (field === 3) push(subscribe, readName(reader));
    else if (field === 4) push(unsubscribe, readName(reader));
    else if (field === 5) readVersion(reader.bytes(), initialVersions);
    else if (field === 6) responseNonce = readName(reader);
    else if (field === 7) rejections = readRejections(reader.bytes());
    else if (field === 1000) push(reports, readResource(reader.bytes()));
    else if (field === 1001) reportSequence = readCount(reader);
    else if (field === 1002) acceptsPartial = reader.bool();
    else return false;
    return true;
  });
  return {
    ...(node === undefined ? {} : { node }),
    ...(rejections === undefined ? {} : { rejections }),
    typeUrl,
    subscribe,
    unsubscribe,
    initialVersions,
    responseNonce,
    reports,
    reportSequence,
    acceptsPartial,
  };
}

export async function decodeDeltaResponse(
  bytes: Uint8Array,
  slice: TimeSlice,
): Promise<DeltaResponse> {
  const resources: WireResource[] = [];
  const removed: string[] = [];
  const malformed: Rejection[] = [];
  let [typeUrl, systemVersion, nonce, reportSequence, partial] = ['', '', '', 0, false];
  await walk(bytes, slice, RESPONSE_VARINTS, (field, reader) => {
    if (field === 1) systemVersion = readName(reader);
    else if (field === 2) collectResource(reader.bytes(), resources, malformed);
    else if (field === 4) typeUrl = readName(reader);
    else if (field === 5) nonce = readName(reader);
    else if (field === 6) push(removed, readName(reader));
    else if (field === 1000) reportSequence = readCount(reader);
    else if (field === 1001) partial = reader.bool();
    else return false;
    return true;
  });
  return { typeUrl, systemVersion, nonce, resources, removed, malformed, reportSequence, partial };
}

/** Fields that are numbers; all others we know are delimited. With another wire type a field is skipped. */
const REQUEST_VARINTS: ReadonlySet<number> = new Set([1001, 1002]);
const RESPONSE_VARINTS: ReadonlySet<number> = new Set([1000, 1001]);

type ReadField = (field: number, reader: BinaryReader) => boolean;

async function walk(
  bytes: Uint8Array,
  slice: TimeSlice,
  varints: ReadonlySet<number>,
  read: ReadField,
): Promise<void> {
  const reader = new BinaryReader(bytes);
  try {
    while (reader.pos < reader.len) {
      readOne(reader, varints, read);
      if (slice.spent) await slice.yield();
    }
  } catch (error) {
    if (error instanceof MeshError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    const message = `Cannot read discovery message: ${reason}`;
    throw new MeshError('MESH_MESSAGE_INVALID', message, { cause: error });
  }
}

function readOne(reader: BinaryReader, varints: ReadonlySet<number>, read: ReadField): void {
  const [field, wireType] = reader.tag();
  const expected = varints.has(field) ? WireType.Varint : WireType.LengthDelimited;
  if (wireType !== expected || !read(field, reader)) reader.skip(wireType, field);
  if (reader.pos > reader.len) throw invalidField(String(field), 'cut short');
}

function push<T>(list: T[], value: T): void {
  if (list.length >= LIST_ENTRIES_MAX) {
    throw invalidField('list', `more than ${LIST_ENTRIES_MAX} entries`);
  }
  list.push(value);
}

function readName(reader: BinaryReader): string {
  const name = reader.string(true);
  if (name.length > NAME_CHARS_MAX) throw invalidField('name', `longer than ${NAME_CHARS_MAX}`);
  return name;
}

function readCount(reader: BinaryReader): number {
  const count = Number(reader.uint64());
  if (!Number.isSafeInteger(count)) throw invalidField('report_sequence', 'out of range');
  return count;
}

function readNode(bytes: Uint8Array): NodeClaim {
  const node = fromBinary(NodeSchema, bytes);
  const fields: JsonObject = node.metadata ?? {};
  const metadata = new Map<string, string>();
  for (const [name, value] of Object.entries(fields).slice(0, METADATA_MAX)) {
    if (typeof value === 'string') metadata.set(name, value);
  }
  return { id: node.id, cluster: node.cluster, metadata };
}

function readVersion(bytes: Uint8Array, into: Map<string, string>): void {
  const reader = new BinaryReader(bytes);
  let [name, version] = ['', ''];
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1 && wireType === WireType.LengthDelimited) name = readName(reader);
    else if (field === 2 && wireType === WireType.LengthDelimited) version = readName(reader);
    else reader.skip(wireType, field);
  }
  if (into.size >= LIST_ENTRIES_MAX) throw invalidField('initial_resource_versions', 'too many');
  into.set(name, version);
}

function readRejections(bytes: Uint8Array): Rejection[] {
  const status = fromBinary(StatusSchema, bytes);
  const details = status.details.filter(({ typeUrl }) => typeUrl === TYPE_URL.rejection);
  if (details.length === 0) {
    return [{ name: '', reason: status.message.slice(0, REASON_CHARS_MAX) }];
  }
  return details.slice(0, REJECTIONS_MAX).map(({ value }) => {
    const { name, reason } = fromBinary(RejectionSchema, value);
    return { name, reason: reason.slice(0, REASON_CHARS_MAX) };
  });
}

/** One that cannot be read marks only itself. */
function collectResource(bytes: Uint8Array, into: WireResource[], malformed: Rejection[]): void {
  const seen = { name: '' };
  try {
    push(into, readResource(bytes, seen));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    push(malformed, { name: seen.name, reason });
  }
}

function readResource(bytes: Uint8Array, seen: { name: string } = { name: '' }): WireResource {
  const reader = new BinaryReader(bytes);
  const aliases: string[] = [];
  const groups: string[] = [];
  let version = '';
  let body: Uint8Array = new Uint8Array();
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (wireType !== WireType.LengthDelimited) reader.skip(wireType, field);
    else if (field === 1) version = readName(reader);
    else if (field === 2) body = readAnyValue(reader.bytes());
    else if (field === 3) seen.name = readName(reader);
    else if (field === 4) aliases.push(readName(reader));
    else if (field === 1000) groups.push(readName(reader));
    else reader.skip(wireType, field);
  }
  const { name } = seen;
  if (name === '') throw invalidField('name', 'a resource has none');
  if (aliases.length + groups.length > RESOURCE_NAMES_MAX) {
    throw invalidField('aliases', `more than ${RESOURCE_NAMES_MAX}`);
  }
  if (body.length > RESOURCE_BYTES_MAX) {
    throw invalidField('resource', `${body.length} bytes, at most ${RESOURCE_BYTES_MAX}`);
  }
  // A copy in Node's buffer pool: a view would keep the whole message alive.
  return {
    name,
    aliases: exact(aliases),
    groups: exact(groups),
    version,
    body: Buffer.from(body),
  };
}

const NONE: readonly string[] = [];

/** A list that has grown has room for 17: 25 MB with 100,000 endpoints. */
function exact(list: readonly string[]): readonly string[] {
  return list.length === 0 ? NONE : list.slice();
}

function readAnyValue(bytes: Uint8Array): Uint8Array {
  const reader = new BinaryReader(bytes);
  let value: Uint8Array = new Uint8Array();
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 2 && wireType === WireType.LengthDelimited) value = reader.bytes();
    else reader.skip(wireType, field);
  }
  return value;
}
