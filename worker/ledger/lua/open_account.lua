-- open_account(scope, cap, keep_ms) -> 1 | 0 where it exists, whose cap then stays as it is
-- a:<scope> hash, kept `keep_ms` for a session and for ever otherwise; names set; j stream
local scope = ARGV[1]
if redis.call('HEXISTS', account_key(scope), 'cap') == 1 then return 0 end
redis.call('HSET', account_key(scope), 'cap', int(amount(ARGV[2])), 'posted', '0', 'held', '0', 'unknown', '0',
  'breach', '0', 'frozen', '0', 'closed', '0')
if session_of(scope) then keep(scope, ARGV[3]) else redis.call('SADD', NAMES, scope) end
log('open', 'scope', scope, 'cap', ARGV[2])
return 1
