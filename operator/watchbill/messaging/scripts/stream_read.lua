#!lua flags=allow-oom
-- Gives entries of a group to one of its consumers: first those that are pending with somebody who has been silent
-- about them for too long, then new ones.
-- KEYS
--   1 stream
--   2 answer_key
-- ARGV
--   1 group
--   2 consumer
--   3 count               entries at most
--   4 retry_ms            how long somebody may be silent
--   5 most                how often an entry is given
--   6 first               id from which to check what is pending; '' not to check
--   7 seconds             for which the answer is kept
-- Answers {entries, how often each was given, ids of what was given too often, id from which to check next or ''}
local stream, answer_key = KEYS[1], KEYS[2]
local group, consumer, count, retry_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local most, first, seconds = tonumber(ARGV[5]), ARGV[6], ARGV[7]
local AT_ONCE = 100     -- pending entries that one call checks

local answered = redis.call('GET', answer_key)
if answered then -- our first send was applied and its reply was lost
  local entries, times = {}, {}
  for id, given in string.gmatch(answered, '(%S+) (%d+)') do
    local entry = redis.call('XRANGE', stream, id, id)[1]
    if entry then
      entries[#entries + 1], times[#times + 1] = entry, tonumber(given)
    end
  end
  return { entries, times, {}, '' }
end
local pending = first ~= '' and redis.call('XPENDING', stream, group, first, '+', AT_ONCE) or {}

local entries, times, worn, following = {}, {}, {}, #pending == AT_ONCE and '(' .. pending[AT_ONCE][1] or ''
for _, one in ipairs(pending) do
  local id, idle, given = one[1], one[3], one[4]
  if idle >= retry_ms and given >= most then
    worn[#worn + 1] = id
  elseif idle >= retry_ms and #entries == count then
    following = id -- the next call begins with it
    break
  elseif idle >= retry_ms then
    local entry = redis.call('XCLAIM', stream, group, consumer, 0, id)[1]
    if entry then -- else it was deleted meanwhile, and is pending no more
      entries[#entries + 1], times[#times + 1] = entry, given + 1
    end
  end
end
if #entries < count then
  local left = count - #entries
  local new = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', left, 'STREAMS', stream, '>')
  for _, entry in ipairs(new and new[1][2] or {}) do
    entries[#entries + 1], times[#times + 1] = entry, 1
  end
end
if #entries > 0 then
  local given = {}
  for i, entry in ipairs(entries) do given[i] = entry[1] .. ' ' .. times[i] end
  redis.call('SET', answer_key, table.concat(given, ' '), 'EX', seconds)
end
return { entries, times, worn, following }
