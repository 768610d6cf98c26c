#!lua
-- uses events wake suspend limits watches
-- A crew comes into being, or takes up a new definition. The old definition stays while a run refers to it.
-- KEYS fixed, then
--   1 new_key             of the new definition
--   2 old_key             of the old one as the caller last saw it; the new one again: there was none
-- ARGV
--   1 fresh               uid of a crew that is new here
--   2 wanted              uid that must be there; '': any
--   3 digest
--   4 old_digest          '': there was none
--   5 definition
--   6 max_queued
--   7 owner               who manages it; '': nobody
--   8 loss                what the feed says if the crew isn't here; '': nothing, since it never was
--   9 generation          of the definition, where its owner counts; '': nobody does
--   10 over               a later generation that this one may replace; '': none
--   11 crew
--   12 suspended          1: no task of it is to begin; 0: they are; '': as it was
--   13 deletion           what becomes of its work when it is deleted (close.lua); '': nobody says
--   14 hold               why it takes no work, where `suspended` is 1; '': it does
--   15 limited            agents with limits (lib_limits.lua); '': none has any
--   16 watches            names of its watches, joined by LS; '': it has none
--   then for each of its destinations
--     agent               its name on the delivery queue
--     of                  the destination (circuits.key in Python)
-- Answers
--   {'ok', uid, agents}   of destinations that were defined anew, and for which something may still be delayed
--   {'changed'}           another definition came in between: look again
--   {'other', uid, owner} it is another crew of that name, or another's
--   {'older', generation} a later generation is here
--   {'leaving', uid}      a former one is not removed to its end
local fresh, wanted, digest, old_digest, definition = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local max_queued, owner, loss, generation, over = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local crew, suspended, deletion, hold, limited, watches = ARGV[11], ARGV[12], ARGV[13], ARGV[14], ARGV[15], ARGV[16]
local new_key, old_key = KEYS[FIXED + 1], KEYS[FIXED + 2]
local known = redis.call('HMGET', META, 'uid', 'owner', 'def', 'leaving', 'generation', 'limits')
local uid, known_owner, old, leaving, last = known[1], known[2] or '', known[3] or '', known[4], known[5] or ''
if leaving then return { 'leaving', leaving } end
if uid and wanted ~= '' and uid ~= wanted then return { 'other', uid, known_owner } end
if uid and known_owner ~= '' and known_owner ~= owner then return { 'other', uid, known_owner } end
if generation ~= '' and last ~= '' and last ~= over and tonumber(generation) < tonumber(last) then
  return { 'older', last }
end
if old ~= old_digest and old ~= digest then return { 'changed' } end
local is_new = not uid
uid = uid or fresh
redis.call('SET', new_key, definition)
redis.call('HSET', META, 'uid', uid, 'def', digest, 'maxQueued', max_queued)
if generation ~= '' then redis.call('HSET', META, 'generation', generation) end
redis.call('HSETNX', META, 'born', int(now_us))     -- what was claimed before, the store has lost
if is_new and loss ~= '' then
  redis.call('HSET', META, 'lost', now)     -- so that no worker tells it again (record_loss.lua)
  event('mission_event', '"message":' .. quote(loss))
end
if deletion ~= '' then
  redis.call('HSET', META, 'deletion', deletion)
  reopen()     -- its Crew is there
end
if suspended ~= '' then suspend(crew, suspended == '1', hold) end
if owner ~= '' then redis.call('HSET', META, 'owner', owner) end     -- with it, so that a sweep finds it
if old ~= '' and old ~= digest and redis.call('HEXISTS', META, 'ref:' .. old) == 0 then redis.call('DEL', old_key) end
for _, c in ipairs(CLASSES) do
  redis.pcall('XGROUP', 'CREATE', STREAM[c], GROUP, '0')    -- an error: it is there already, or the stream isn't
end

-- Takes up the limits of agents. What waits for a limit that is gone begins with the next claims.
local function limit_agents(before)
  local is_limited, waits, wanted = {}, {}, split(limited, LS)
  for _, one in ipairs(before ~= '' and limiting().waiting() or {}) do waits[one.agent] = true end
  for _, one in ipairs(wanted) do
    local agent, every = string.match(one, '^([^\31]+)\31%d*\31(%d*)')
    is_limited[agent] = true
    if every == '' and not role_of(agent) then redis.call('HDEL', META, 'rate:' .. agent) end
  end
  for _, one in ipairs(split(before, LS)) do
    local agent = string.match(one, '^[^\31]+')
    if not is_limited[agent] then
      redis.call('HDEL', META, 'rate:' .. agent, 'away:' .. agent)
      if waits[agent] then
        wanted[#wanted + 1] = agent .. FS .. FS .. FS
      else
        redis.call('HDEL', META, 'held:' .. agent)
      end
    end
  end
  heed(#wanted > 0 and table.concat(wanted, LS) or nil)
  if limits then
    redis.call('HSET', META, 'limits', limits)
  else
    redis.call('HDEL', META, 'limits', 'recounted')
  end
  if before ~= '' then
    ring()
    wake(crew, true)
  end
end
heed(known[6])
if (limits or '') ~= limited then limit_agents(limits or '') end
if limits then limiting().recount() end
keep_places(split(watches, LS))

local anew = {}
for i = 17, #ARGV, 2 do
  local agent, of = ARGV[i], ARGV[i + 1]
  local before = redis.call('HGET', META, agent)
  if before and before ~= of then
    redis.call('HSET', META, agent, of .. ' ')      -- until all is brought forward (release.lua)
    anew[#anew + 1] = agent
  elseif not before then
    redis.call('HSET', META, agent, of)
  end
end
return { 'ok', uid, anew }
