#!lua flags=allow-oom
-- uses events watches
-- The next events of the crew's feed that its watches may be for. Of the workers that ask, one gets an answer in each
-- `pause`; and whoever has dealt with what it got goes on at once.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 definition          whose watches these are
--   3 pause               in ms
--   4 seen                id up to which the caller has dealt with all; '': it has just come
--   5 n                   types that are looked for, then these
--   ...                   names of the watches
-- Answers
--   {'gone'}
--   {'changed'}           the crew has another definition
--   {'rest'}              it is suspended, or takes no work
--   {'early'}             somebody has looked less than a pause ago
--   {'ok', upto, gap, more, ...}  where the caller is once it has dealt with these; 1: events before them are lost, 2:
--                         may be, since the feed has expired; 1: there may be more behind them; then id and data of
--                         each event
local uid, definition, pause, seen, n = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local MOST, AT_ONCE = 50, 500     -- events of an answer, and entries that are looked at
local GAP = 'events have left the feed before the watches had read them, and begin nothing'
local EXPIRED = 'the feed has expired since the watches read it last: what has happened in between, if anything, '
  .. 'begins nothing'
if is_gone(uid) then return { 'gone' } end
local meta = redis.call('HMGET', META, 'def', 'suspended', 'closed', 'looked')
local def, suspended, closed, looked = meta[1], meta[2], meta[3], meta[4]
if def ~= definition then return { 'changed' } end
local names, types = {}, {}
for i = 6, #ARGV do
  local given = ARGV[i]
  if i <= 5 + n then types[given] = true else names[#names + 1] = given end
end
if suspended or closed then return { 'rest' } end
local since = now_ms - tonumber(looked or '0')
if seen == '' and since >= 0 and since < pause then return { 'early' } end
redis.call('HSET', META, 'looked', now)

local first, was_told, newest = keep_places(names)
local at, gap = first, '0'
if seen ~= '' and is_later(seen, at) and not is_later(seen, newest) then at, was_told = seen, false end
local entries = redis.call('XRANGE', EVENTS, '(' .. at, '+', 'COUNT', AT_ONCE)
if entries[1] and at ~= '0-0' and not was_told and #redis.call('XRANGE', EVENTS, at, at) == 0 then
  if parts_of(entries[1][1]) < parts_of(at) + DAY * 1000 then
    gap = '1'
  elseif since >= DAY * 1000 then     -- it has expired; whoever looked within that time saw all that it had
    gap = '2'
  end
end
local start = at
local answer, upto, more = { 'ok', at, gap, '0' }, at, #entries == AT_ONCE
for _, entry in ipairs(entries) do
  local id, fields = entry[1], entry[2]
  local kind, data
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if name == 'event_type' then kind = value elseif name == 'data' then data = value end
  end
  if kind and data and types[kind] then
    answer[#answer + 1], answer[#answer + 2] = id, data
  elseif #answer == 4 then
    at = id     -- nobody need look at it again
  end
  upto = id
  if #answer >= 4 + 2 * MOST then
    more = true
    break
  end
end
answer[2], answer[4] = upto, more and '1' or '0'
if gap ~= '0' then event('mission_event', '"message":' .. quote(gap == '1' and GAP or EXPIRED)) end
if at ~= first or gap ~= '0' then
  redis.call('HSET', META, 'watched', at .. (at == start and gap ~= '0' and FS or ''))
end
return answer
