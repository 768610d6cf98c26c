-- Crews none of whose tasks is to begin.
-- uses events wake
--
-- meta's `closed` is why a crew takes no work: a number is the time since which its Crew is gone (close.lua); a text is
-- what those are told who submit. It is that of `closing` if somebody has closed the crew (admit.lua), else that of a
-- namespace without room for it.

-- What the crew was closed for has passed. It takes work again, unless somebody has closed it, too.
local function reopen()
  local closing = redis.call('HGET', META, 'closing')
  if closing then redis.call('HSET', META, 'closed', closing) else redis.call('HDEL', META, 'closed') end
end

-- From now on no task is claimed (lib_claims.lua), or tasks are again. `hold`: why the crew takes no work either, as
-- those say that submit; '': it does. Returns whether that changed anything.
local function suspend(crew, is_on, hold)
  local known = redis.call('HMGET', META, 'suspended', 'closed')
  if not tonumber(known[2] or '') then     -- else its Crew is gone (close.lua)
    if hold ~= '' then redis.call('HSET', META, 'closed', hold)
    elseif known[2] then reopen() end
  end
  if is_on == (known[1] and true or false) then return false end
  if is_on then
    redis.call('HSET', META, 'suspended', now)
    event('mission_event', '"message":' .. quote(hold ~= '' and 'no task begins and none is taken: ' .. hold
      or 'the crew is suspended: no task begins until it is resumed'))
  else
    redis.call('HDEL', META, 'suspended')
    event('mission_event', '"message":' .. quote('the crew is resumed: tasks begin again'))
    ring()
    wake(crew, true)
  end
  return true
end
