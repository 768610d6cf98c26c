#!lua flags=no-writes
-- uses nothing
-- How much a crew has to do, as of one moment. What it costs doesn't depend on how much that is, but for the number of
-- workers. A stream that isn't there is an empty one.
-- KEYS fixed
-- ARGV
--   1 most                results that are looked at; 0: none
--   2 behind              the id behind which they are; '': only how many there were
-- Answers
--   {}                    there is no such crew
--   {now in ms, when delayed work is due ('': there is none), delayed, running, parked for concurrency, for an agent,
--     for an interrupt, dead, refused, trimmed, classes, workers, ended, outbox}
--   classes               for each waiting, running, id of the head or ''
--   workers               for each that lives what it says of itself, or ''; is it to drain?
--   ended                 {} | {results ever, id of the last, looked at, completed, failed}
--   outbox                {} (the crew has never delivered anything) | {entries, id of the first or ''}
local most, behind = tonumber(ARGV[1]), ARGV[2]
local meta = redis.call('HMGET', META, 'uid', 'refused', 'trimmed', 'delivers')
if not meta[1] then return {} end

-- The values of an XINFO answer by their names.
local function named(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

-- What was handed back is pending too, at a consumer of its own: it waits.
local handed_back = redis.call('ZSCORE', LEASES, RETURNED)

local function returned(stream)
  local head = redis.call('XPENDING', stream, GROUP, '-', '+', 1, RETURNED)[1]
  for _, consumer in ipairs(head and redis.call('XPENDING', stream, GROUP)[4] or {}) do
    if consumer[1] == RETURNED then return tonumber(consumer[2]), head[1] end
  end
  return 0, nil
end

local classes, waits_again, length_of = {}, 0, lengths()
for _, class in ipairs(CLASSES) do
  local stream, waiting, running, head = STREAM[class], 0, 0, nil
  local length = length_of[class]
  if length > 0 then
    local last, pending, back = '0-0', 0, 0
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local group = named(flat)
      if group['name'] == GROUP then last, pending = group['last-delivered-id'], group['pending'] end
    end
    if handed_back and pending > 0 then back, head = returned(stream) end
    running, waits_again = pending - back, waits_again + back
    waiting = math.max(length - running, 0)
    if waiting > 0 and not head then
      local new = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)
      head = new[1] and new[1][1]
    end
  end
  classes[#classes + 1], classes[#classes + 2], classes[#classes + 3] = waiting, running, head or ''
end

local workers = {}
for _, inc in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '(' .. now, '+inf')) do
  workers[#workers + 1] = redis.call('HGET', WORKERS, inc) or ''
  workers[#workers + 1] = redis.call('HEXISTS', META, 'drain:' .. (string.match(inc, '^(.*)%.[^.]*$') or inc))
end

local ended = {}
local stream = most > 0 and redis.call('EXISTS', RESULTS) == 1 and named(redis.call('XINFO', 'STREAM', RESULTS))
if stream then
  local seen, completed, failed = 0, 0, 0
  if behind ~= '' then
    for _, entry in ipairs(redis.call('XREVRANGE', RESULTS, '+', '(' .. behind, 'COUNT', most)) do
      local result = named(entry[2])
      seen = seen + 1
      if result['kind'] ~= 'run' then     -- its steps are counted
        local state = result['state']
        if state == 'completed' then completed = completed + 1
        elseif state == 'failed' or state == 'dead' then failed = failed + 1 end
      end
    end
  end
  ended = { stream['entries-added'], stream['last-generated-id'], seen, completed, failed }
end

local outbox = {}
if meta[4] then
  local first = redis.call('XRANGE', OUTBOX, '-', '+', 'COUNT', 1)[1]
  outbox = { redis.call('XLEN', OUTBOX), first and first[1] or '' }
end

local due = redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
return { now_ms, due[2] or '', redis.call('ZCARD', DELAYED), redis.call('HLEN', HOLDERS) - waits_again,
  redis.call('ZCARD', PARKED), redis.call('ZCARD', PARKED_AGENT), redis.call('ZCARD', PARKED_INTERRUPT),
  redis.call('XLEN', DEAD), tonumber(meta[2] or '0'), tonumber(meta[3] or '0'), classes, workers, ended,
  outbox }
