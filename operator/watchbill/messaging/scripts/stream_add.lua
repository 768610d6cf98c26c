#!lua
-- Adds an entry to a stream, once, however often the call is sent. A stream with a bound gives up its oldest entries
-- for it, but none that a group still has to do.
-- KEYS
--   1 stream
--   2 answer_key
--   3 listed              the streams of the crew that this one belongs to, where it does
--   4 meta                of that crew
-- ARGV
--   1 seconds             for which the answer is kept
--   2 longest             how many entries the stream may have; 0: any number
--   3 ...                 fields and values
-- Answers id | {group that still has to do what would go} | gone, there is no such crew
local stream, answer_key, listed, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local seconds, longest = ARGV[1], tonumber(ARGV[2])
local FIRST = 3         -- the first of the fields
local AT_ONCE = 100     -- entries that one call deletes at most

-- An entry's id is a time and a number, which are compared one after the other.
local function is_later(one, other)
  local one_ms, one_n = string.match(one, '(%d+)-(%d+)')
  local other_ms, other_n = string.match(other, '(%d+)-(%d+)')
  if one_ms ~= other_ms then return tonumber(one_ms) > tonumber(other_ms) end
  return tonumber(one_n) > tonumber(other_n)
end

-- The group that has not done all entries up to this id, if there is one.
local function who_needs(id)
  for _, listed in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for i = 1, #listed, 2 do group[listed[i]] = listed[i + 1] end
    if is_later(id, group['last-delivered-id']) or #redis.call('XPENDING', stream, group.name, '-', id, 1) > 0 then
      return group.name
    end
  end
end

local answered = redis.call('GET', answer_key)
if answered then
  return answered -- our first send was applied and its reply was lost
end
local is_new = listed and redis.call('EXISTS', stream) == 0
if is_new and redis.call('HEXISTS', meta, 'uid') == 0 then
  return 'gone'
end
local length = longest > 0 and redis.call('XLEN', stream) or 0
local over = math.min(length + 1 - longest, AT_ONCE)
local oldest = longest > 0 and over > 0 and redis.call('XRANGE', stream, '-', '+', 'COUNT', over) or {}
local needed_by = #oldest > 0 and who_needs(oldest[#oldest][1])
if needed_by then
  return { needed_by }
end

if #oldest > 0 then
  redis.call('XTRIM', stream, 'MAXLEN', '=', length - #oldest)
end
if is_new then redis.call('SADD', listed, stream) end
local id = redis.call('XADD', stream, '*', unpack(ARGV, FIRST))
redis.call('SET', answer_key, id, 'EX', seconds)
return id
